"""Prints the JSON schema of a run's configuration: `python -m pipelines.config`."""

from pipelines.config.run import schema

if __name__ == "__main__":
    print(schema(), end="")

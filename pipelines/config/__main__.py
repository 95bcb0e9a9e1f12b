"""Prints what is made from the configuration's code: `python -m pipelines.config schema|reference`."""

import argparse
import sys

from pipelines.config.reference import reference
from pipelines.config.run import schema

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m pipelines.config", description=__doc__)
    parser.add_argument("what", choices=("schema", "reference"), help="docs/config.schema.json, or docs/configuration.md")
    sys.stdout.write({"schema": schema, "reference": reference}[parser.parse_args().what]())

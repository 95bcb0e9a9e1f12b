"""Known vulnerabilities of the packages in constraints.txt, by pip-audit: `python deploy/audit.py [URL of an OSV database]`.

`make check` runs it. The exit status is 1 if a package has one, and 2 if pip-audit fails. Where the database cannot be
reached nothing is known: that is said, and the status is 0, so that the other checks can be run without a network.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

OSV = "https://api.osv.dev/v1/query"
PACKAGES = "constraints.txt"
_LIMIT_S = 300  # for all packages together
_UNREACHED = "requests.exceptions."  # what pip-audit ends with where a connection fails


def main(arguments: list[str]) -> int:
    """Ask, and say what is known."""
    (url,) = arguments or [OSV]
    command = [Path(sys.executable).with_name("pip-audit"), "--requirement", PACKAGES, "--no-deps", "--disable-pip"]
    command += ["--vulnerability-service", "osv", "--osv-url", url, "--format", "json", "--progress-spinner", "off"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S)
        packages: list[dict[str, Any]] = json.loads(asked.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return _unreached(url)
    except ValueError:
        *_, last = asked.stderr.strip().splitlines() or [f"exit status {asked.returncode}, and not a word"]
        if last.startswith(_UNREACHED):
            return _unreached(url)
        print(f"pip-audit failed: {last}")
        return 2
    for package in packages:
        for found in package.get("vulns", ()):
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {found['id']}, mended in {fixed}")
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if skipped:
        print(f"NOT AUDITED: {', '.join(skipped)}")
    vulnerable = sum(bool(package.get("vulns")) for package in packages)
    print(f"audited {len(packages) - len(skipped)} packages of {PACKAGES}: {vulnerable} with known vulnerabilities")
    return int(vulnerable > 0)


def _unreached(url: str) -> int:
    print(f"NOT AUDITED: {url} did not answer, so nothing is known of vulnerabilities of the packages in {PACKAGES}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

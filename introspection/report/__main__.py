"""Command line of the report: python -m introspection.report runs/preeclampsia"""

import argparse
import sys
from pathlib import Path

from common import UserError
from introspection.report import page


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="report", description="one HTML file with the figures and every learning point of one or more runs"
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        help="run directories, or folders of their stages; runs that differ in their seed alone are pooled",
    )
    parser.add_argument("--out", type=Path, help="default: report.html in the first of them")
    parser.add_argument(
        "--words",
        type=int,
        default=0,
        metavar="N",
        help="colour the words of the N best points by what the exchange added to them",
    )
    args = parser.parse_args()
    try:
        out = args.out or args.runs[0] / "report.html"
        page.write(args.runs, out, args.words)
    except (UserError, OSError) as error:
        print(f"report: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    print(f"wrote {out} ({out.stat().st_size / 2**20:.1f} MiB)")


if __name__ == "__main__":
    main()

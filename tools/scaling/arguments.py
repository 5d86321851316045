"""The command line of the tools that train a configuration at several widths. Imports no torch, so that --help comes at once."""

from __future__ import annotations

import argparse


def width_parser(description: str | None, config_help: str, steps: int, steps_help: str) -> argparse.ArgumentParser:
    """The arguments of every tool that trains a configuration at several widths."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", nargs="+", help=config_help)
    parser.add_argument(
        "--widths", type=int, nargs="+", required=True, metavar="N", help="hidden sizes, the base first"
    )
    parser.add_argument("--steps", type=int, default=steps, help=f"{steps_help} ({steps})")
    parser.add_argument(
        "--set", dest="overrides", metavar="KEY=VALUE", nargs="+", action="extend", default=[], help="override keys"
    )
    return parser

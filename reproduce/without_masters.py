"""Stage 1 whose optimiser steps the weights themselves, whatever their precision: a suspect of T3, and no setting.

python -m reproduce.without_masters --config FILE --set shared.dtype=bfloat16
"""

import common
from grpo_introspect import Config, main
from introspection import update


def run() -> None:
    update.fp32_master = lambda parameter: parameter
    common.launch(main, Config, "grpo_introspect")


if __name__ == "__main__":
    run()

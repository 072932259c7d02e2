"""The command line. Nothing heavy is imported until a subcommand runs.

star-exp run [OVERRIDES]             a run, or with -m several; the same command again resumes
star-exp status DIR...               what is done, running or failed
star-exp report DIR...               compare runs: tables, curves, a page
star-exp show RUN_DIR                look at its rollouts
star-exp eval RUN_DIR [OVERRIDES]    a run's model on any task
star-exp verify RUN_DIR...           its metrics again, from its rollouts
star-exp dashboard                   a W&B workspace that compares variants
star-exp check task=...              grade a dataset's own answers
"""

import os
import sys
from importlib import import_module

from star_exp import __version__

COMMANDS = {  # each has a function main(arguments) -> exit status
    "run": "star_exp.config.launch",
    "status": "star_exp.status",
    "report": "star_exp.report",
    "show": "star_exp.show",
    "eval": "star_exp.evaluate",
    "verify": "star_exp.verify",
    "dashboard": "star_exp.dashboard",
    "check": "star_exp.check",
}

USAGE = """\
star-exp: experiments on self-taught reasoners (STaR and its family)

  star-exp run [OVERRIDES]            run an experiment; the same command again resumes it
      star-exp run                                    STaR on addition, two CPU cores, minutes
      star-exp run variant=direct seed=1              another variant, another seed
      star-exp run -m variant=star,direct seed=0,1    all combinations, one after another
      star-exp run --cfg job                          print the composed config, run nothing
      star-exp run --help                             the config groups and their choices
  star-exp status DIR...              what is done, running or failed, and the time left
  star-exp report DIR...              compare runs: tables, curves, a page to open in a browser
  star-exp show RUN_DIR [FILTERS]     browse what the model wrote; plain text in a pipe
  star-exp eval RUN_DIR [OVERRIDES]   measure a finished run's model, also on another task
  star-exp verify RUN_DIR...          compute all metrics again from what is stored, and compare
  star-exp dashboard                  a W&B workspace and report that compare variants
  star-exp check task=... [OVERRIDES] grade a dataset's own answers: is its checker right?
  star-exp --version

Add --traceback to any command to see where an error came from.
"""


def main(argv: list[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in {"-h", "--help", "help"}:
        print(USAGE, end="")
        return 0
    if argv[0] == "--version":
        print(f"star-exp {__version__}")
        return 0
    name, *arguments = argv
    if name not in COMMANDS:
        from star_exp.errors import did_you_mean

        print(f"star-exp: there is no command {name!r}; {did_you_mean(name, COMMANDS)}")
        return 2
    traceback = "--traceback" in arguments
    arguments = [argument for argument in arguments if argument != "--traceback"]
    try:
        return import_module(COMMANDS[name]).main(arguments)
    except KeyboardInterrupt:
        print("\nstar-exp: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except SystemExit as error:
        if type(error).__name__ != "SIGTERMException":  # Lightning's, for a job that is preempted
            raise
        print("star-exp: terminated; the same command goes on from here", file=sys.stderr)
        return 143
    except BrokenPipeError:  # `star-exp show ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        from star_exp.config.messages import for_the_user

        message = for_the_user(error, arguments)
        if traceback or message is None:
            raise
        print(f"star-exp {name}: {message}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

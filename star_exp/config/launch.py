"""Hydra's part of `star-exp run`: compose, check, and only then import what runs.

Hydra composes the config (or, with -m, one for each job); every job's config is validated before
torch is imported, and handed to `star_exp.run` as plain data.
"""

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from star_exp.config.compose import conf_dir, plain, register_resolvers, with_generator
from star_exp.config.messages import for_the_user
from star_exp.config.validate import ConfigError, validate


def launch(arguments: list[str]) -> None:
    """Runs `star-exp run ARGUMENTS`. Errors come out as exceptions, not as Hydra's prints.

    A job that fails does not stop the others of a multirun; the first error is raised at the end.
    """
    register_resolvers()
    os.environ["HYDRA_FULL_ERROR"] = "1"
    command, errors = sys.argv, []

    def job(config: DictConfig) -> float | None:
        sys.argv = command  # Lightning starts the other ranks of a DDP run with these words
        try:
            resolved = plain(with_generator(config, HydraConfig.get().overrides.task))
            validate(resolved)
            from star_exp.run import run

            return run(resolved, overrides=list(HydraConfig.get().overrides.task))
        except Exception as error:
            errors.append(error)
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                said = for_the_user(error, arguments) or f"{type(error).__name__}: {error}"
                overrides = " ".join(HydraConfig.get().overrides.task)
                print(f"star-exp run: the job {overrides} failed: {said}", file=sys.stderr)
            return None

    main = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)
    sys.argv = [command[0], *arguments]
    sys.path.insert(0, os.getcwd())  # a class of the user's own, in the folder of the command
    try:
        main()
    except (ValueError, AttributeError, TypeError) as error:  # of Hydra's, before any job began
        nulls = [word for word in arguments if word.endswith("=null")]
        named = f" ({', '.join(nulls)}: a group takes the name of a choice)" if nulls else ""
        raise ConfigError(f"Hydra can't compose {arguments}: {error}{named}") from error
    finally:
        sys.path.remove(os.getcwd())
        sys.argv = command
    if len(errors) > 1:
        print(f"star-exp run: {len(errors)} jobs failed; the first error again:", file=sys.stderr)
    if errors:
        raise errors[0]

"""gtl config: show a configuration as it will run, print the schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gtl.cli.common import JsonFlag, Overrides, print_json
from gtl.cli.gene import load_gene
from gtl.config_file import config_hash, dump_config, load_config, recorded_config, schema
from gtl.errors import ConfigError

app = typer.Typer(no_args_is_help=True)


@app.command()
def show(
    config: Annotated[Path, typer.Argument(help="YAML file, or a learngene file: the configuration that made it.")],
    set_: Overrides = None,
    json_: JsonFlag = False,
) -> None:
    """Print a configuration with every default filled in, after checking it."""
    if config.suffix == ".safetensors":
        recorded = load_gene(config).provenance.get("config")
        if not isinstance(recorded, dict):
            raise ConfigError(f"{config} does not record its configuration; give the YAML file")
        settled = recorded_config(recorded, str(config), set_ or ())
    else:
        settled = load_config(config, set_ or ())
    if json_:
        print_json({"hash": config_hash(settled), "config": settled.model_dump(mode="json")})
    else:
        print(dump_config(settled), end="")


@app.command("schema")
def schema_() -> None:
    """Print the JSON Schema of configurations."""
    print_json(schema())

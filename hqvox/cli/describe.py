"""`hqvox models describe`: what a recipe's networks consist of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hqvox.cli.common import add_row, complete_train_recipe, console, say, text_table

if TYPE_CHECKING:
    from models.describe import Description

PAPER_IDENTITIES = 2890
"""Of HQ-VoxCeleb's training part (paper, table 1)."""


def describe(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="Name of a training recipe, or a YAML file.",
            autocompletion=complete_train_recipe,
        ),
    ],
    frames: Annotated[
        int, typer.Option(min=1, max=100_000, help="Log-mel frames of a window, 10 ms each.")
    ] = 125,
    windows: Annotated[
        int, typer.Option(min=1, max=10_000, help="Windows of one face; over 1 needs a fuser.")
    ] = 1,
    identities: Annotated[
        int, typer.Option(min=2, max=10_000_000, help="Whom the identity classifier tells apart.")
    ] = PAPER_IDENTITIES,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override the recipe.")
    ] = None,
) -> None:
    """Show the networks of a training recipe: parts, output shapes, parameters, FLOPs.

    A FLOP is a multiplication or an addition of a convolution, a linear layer or a matrix product,
    for one face; the rest (norms, activations, upsampling) is not counted.
    """
    import torch

    from hqvox.trainer.recipes import load_train_config
    from hqvox.trainer.state import build_critics, generator_spec
    from models.describe import describe_generator, describe_network

    config = load_train_config(recipe, settings or ())
    spec = generator_spec(config)
    _show(
        f"generator: {spec.encoder} encoder, {spec.fuser or 'no'} fuser, {spec.decoder} decoder; "
        f"{windows} × {frames} frames ({frames / 100:g} s)",
        describe_generator(spec, frames, windows),
    )
    with torch.device("meta"):
        critics = build_critics(config, identities)
    for name, critic in critics.items():
        if config.task == "speakers":
            size = sum(parameter.numel() for parameter in critic.parameters())
            say(f"classifier of {identities:,} speakers: {size:,} parameters")
            continue
        kind, _, px = name.rpartition("_")
        classes = "" if kind == "discriminator" else f"; {identities:,} identities"
        _show(f"{kind}, {px} × {px} px{classes}", describe_network(critic, int(px)))


def _show(title: str, description: Description) -> None:
    columns = ("part", "output", "parameters", "MFLOP")
    table = text_table(columns, align="lr", frame=False, wrap=False)
    for layer in (*description.layers, description.total):
        shape = " × ".join(str(size) for size in layer.output)
        style = "bold" if layer is description.total else None
        work = f"{layer.flops / 1e6:,.2f}"
        add_row(table, (layer.name, shape, f"{layer.parameters:,}", work), style)
    say(title)
    console.print(table)
    console.print()

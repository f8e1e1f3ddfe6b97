"""cli: the command `llm`. Looks at models, talks with them, switches presets; training is `dvc repro`.

Each command imports what it needs when it runs, so that `llm --help` answers at once.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


class OneLineErrors(TyperGroup):
    """Prints what a user can cause as one line, exit code 2; LLM_DEBUG=1 shows the traceback instead."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `llm explain gqa | head`: the reader has gone, there is nobody to tell
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except KeyboardInterrupt:
            typer.echo("", err=True)
            raise typer.Exit(130) from None
        except (ValueError, OSError) as error:
            if os.environ.get("LLM_DEBUG"):
                raise
            typer.echo(f"llm {ctx.invoked_subcommand}: {error}", err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=OneLineErrors,
    help="Look at the models of this repository and talk with them. Training is `dvc repro`.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Model = Annotated[
    str, typer.Argument(help="A model folder, or the name of one below models/: base, sft, aligned.")
]
MaxNewTokens = Annotated[int, typer.Option(help="Stop after this many tokens.")]
Temperature = Annotated[float, typer.Option(help="0 always takes the most likely token.")]
TopK = Annotated[int, typer.Option(help="Sample among the k most likely tokens; 0: all.")]
TopP = Annotated[
    float, typer.Option(help="Sample among the likeliest tokens that reach this probability; 1: all.")
]
MinP = Annotated[
    float, typer.Option(help="Drop tokens below this fraction of the likeliest one's probability.")
]
Penalty = Annotated[float, typer.Option(help="Above 1: make tokens that already occurred less likely.")]
Seed = Annotated[int, typer.Option(help="Equal seeds give equal text.")]


@app.command()
def preset(name: Annotated[str, typer.Argument(help="A file of configs/, without .yaml.")]) -> None:
    """Copy configs/NAME.yaml over params.yaml; says which keys change."""
    from llm.commands import preset as command

    for line in command.apply(name):
        typer.echo(line)


@app.command(name="list")
def list_(
    family: Annotated[str, typer.Argument(help="A family: mixers, optim, …; none: all families.")] = "",
) -> None:
    """List the families of parts, or the kinds of one family."""
    from llm.commands import catalogue

    typer.echo(catalogue.list_kinds(family) if family else catalogue.list_families())


@app.command()
def explain(
    name: Annotated[str, typer.Argument(help="A module, kind or stage: gqa, mixers/base, stages/pack.")],
) -> None:
    """Print the documentation page of a part."""
    from llm.commands import catalogue

    typer.echo(catalogue.explain(name))


@app.command()
def inspect(
    model: Annotated[
        str, typer.Argument(help="A model folder, a name below models/, or a params file (*.yaml).")
    ],
) -> None:
    """Show what a model is made of, by part: parameters, FLOPs, decoding state; files, tokenizer."""
    from llm.commands import inspection

    typer.echo(inspection.describe(model))


@app.command()
def generate(
    model: Model,
    prompt: Annotated[str, typer.Option(help="Text to continue; '-' reads standard input.")],
    chat: Annotated[
        bool, typer.Option("--chat", help="Send the prompt as a user message of the chat template.")
    ] = False,
    max_new_tokens: MaxNewTokens = 200,
    temperature: Temperature = 0.8,
    top_k: TopK = 0,
    top_p: TopP = 0.95,
    min_p: MinP = 0.0,
    repetition_penalty: Penalty = 1.0,
    seed: Seed = 0,
) -> None:
    """Continue a prompt, printing tokens as they come."""
    from llm.commands import talk

    text = sys.stdin.read() if prompt == "-" else prompt
    sampling = talk.sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    talk.generate(model, text, chat=chat, max_new_tokens=max_new_tokens, sampling=sampling, seed=seed)


@app.command()
def chat(
    model: Model,
    max_new_tokens: MaxNewTokens = 200,
    temperature: Temperature = 0.8,
    top_k: TopK = 0,
    top_p: TopP = 0.95,
    min_p: MinP = 0.0,
    repetition_penalty: Penalty = 1.1,
    seed: Seed = 0,
) -> None:
    """Talk with a model in the terminal. /reset forgets the conversation, /quit leaves."""
    from llm.commands import talk

    sampling = talk.sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    talk.chat(model, max_new_tokens=max_new_tokens, sampling=sampling, seed=seed)


tokenizer = typer.Typer(cls=OneLineErrors, help="Compare tokenizers.", no_args_is_help=True)
app.add_typer(tokenizer, name="tokenizer")


@tokenizer.command()
def sweep(
    corpus: Annotated[
        Path, typer.Option(help="A set: a folder with train.jsonl and validation.jsonl.")
    ] = Path("data/clean"),
    kinds: Annotated[str, typer.Option(help="Kinds, separated by commas.")] = "bpe,wordpiece,unigram",
    sizes: Annotated[
        str, typer.Option(help="Vocabulary sizes, separated by commas.")
    ] = "1024,2048,4096,8192",
    megabytes: Annotated[
        float, typer.Option(help="Text each small model reads; 0 trains none and takes seconds.")
    ] = 0.0,
    seeds: Annotated[int, typer.Option(help="Models for each vocabulary.")] = 1,
    out: Annotated[Path, typer.Option(help="Where the table and the picture go.")] = Path(
        "report/tokenizer_sweep"
    ),
) -> None:
    """Measure every kind of tokenizer at every size; with --megabytes also the bits per byte they lead to."""
    from llm.commands import sweep as command

    rows = command.sweep(
        corpus,
        kinds.split(","),
        command.numbers(sizes, "--sizes"),
        megabytes=megabytes,
        seeds=seeds,
        out=out,
    )
    typer.echo(command.markdown(rows) + str(out))


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A model folder, of this project or of transformers.")],
    target: Annotated[Path, typer.Argument(help="The folder to make: of the other one.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="The tokenizer folder that goes with a model of transformers.")
    ] = None,
    to: Annotated[str, typer.Option(help="The architecture to write; default: the one that fits.")] = "",
) -> None:
    """Turn a model folder into one of `transformers`, or the other way round."""
    from llm.commands import convert as command

    typer.echo(command.convert(source, target, tokenizer=tokenizer, to=to))


explore = typer.Typer(cls=OneLineErrors, help="Look into the parts of a model.", no_args_is_help=True)
app.add_typer(explore, name="explore")


@explore.callback()
def _explore() -> None:
    """Look into the parts of a model."""


@explore.command()
def attention(
    name: Annotated[
        str, typer.Argument(help="A kind of mixer (fresh weights), or a model (learned ones): mamba, base.")
    ],
    text: Annotated[str, typer.Option(help="The sentence a model reads.")] = "",
    layer: Annotated[int, typer.Option(help="Which layer; -1: the last.")] = -1,
    out: Annotated[Path | None, typer.Option(help="The picture, a PNG file.")] = None,
) -> None:
    """Draw what a token of a mixer can see, what it does read, and what its state costs."""
    from llm.commands import explore as command

    picture, words = command.attention(name, text=text or command.TEXT, layer=layer, out=out)
    typer.echo(f"{words}\n{picture}")


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="The Markdown table.")] = Path("metrics/report.md"),
    html: Annotated[Path, typer.Option(help="The page.")] = Path("report/index.html"),
    summary: Annotated[
        bool, typer.Option("--summary", help="Print the tables of the models as well.")
    ] = False,
) -> None:
    """Write the report card again, as the last stage does."""
    from llm.report.card import write_card
    from llm.report.collect import collect
    from llm.report.markdown import summary as tables

    found = collect(Path())
    write_card(found, markdown=out, html=html)
    if summary:
        typer.echo(f"{tables(found)}\n")
    typer.echo(f"{out}\n{html}")


@app.command()
def docs(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail when a page is out of date.")
    ] = False,
) -> None:
    """Fill the generated blocks of the documentation."""
    from llm.docs import update

    stale = [str(page) for page in update(Path(), check=check)]
    if check and stale:
        raise ValueError(f"out of date: {', '.join(stale)}; run: llm docs")
    typer.echo("\n".join(stale) if stale else "every page is up to date")


if __name__ == "__main__":  # python -m llm.cli, where the command is not installed
    app()

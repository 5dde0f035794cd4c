"""`wordsight data align`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wordsight.cli.parser import CommandParser
from wordsight.cli.show import say

if TYPE_CHECKING:
    from wordsight.text.endpoint import Endpoint

DESCRIPTION = (
    "Turn the reports of a table into prompts ('There is no pneumothorax') by a language model behind an endpoint that "
    "speaks OpenAI's interface, into a new column that `train carzero --captions-column` reads. THE SENTENCES OF THE "
    "REPORTS LEAVE THIS COMPUTER for the endpoint: agreements of data sets such as MIMIC-CXR forbid sending them to "
    "third parties; use a server of your own there. Without a model, `train carzero` makes prompts by rules. Answers "
    "are kept in --cache: the same command goes on after an interruption and pays for nothing twice."
)


def parser() -> CommandParser:
    """Flags of the command."""
    p = CommandParser("data align", "TABLE --model NAME --cache DIR --out TABLE [options]", DESCRIPTION, config=True)
    p.add_argument("table", type=str, help="CSV or Parquet table with a column report, as `data prepare` writes it")
    p.add_argument("--model", type=str, required=True, help="the endpoint's name of the model")
    p.add_argument("--endpoint", type=str | None, default=None, help="its URL, http://HOST:8000/v1; null: OpenAI's own")
    p.add_argument("--cache", type=str, required=True, help="folder of answers; they contain no key, but findings")
    p.add_argument("--out", type=str, required=True, help="table to write, .parquet or .csv, in the table's folder")
    p.add_argument("--column", type=str, default="aligned", help="name of the new column")
    p.add_argument("--key-variable", type=str, default="OPENAI_API_KEY", help="environment variable with the key")
    p.add_argument("--batch", type=int, default=20, help="sentences in a request")
    p.add_argument("--attempts", type=int, default=6, help="for each request, before it is given up or halved")
    p.add_argument("--price-read", type=float, default=0.0, help="of a million tokens read, in any currency")
    p.add_argument("--price-written", type=float, default=0.0, help="of a million tokens written")
    p.add_argument("--limit", type=int | None, default=None, help="the first rows alone, for trying; null: all")
    return p


def main(argv: Sequence[str]) -> int:
    """Align and print what it cost; also when it ends early."""
    args = parser().parse_args(list(argv))
    from wordsight.data.reports.align import align_table
    from wordsight.text.endpoint import Endpoint, EndpointSettings

    settings = EndpointSettings(
        model=args.model,
        base_url=args.endpoint,
        key_variable=args.key_variable,
        batch_size=args.batch,
        attempts=args.attempts,
        price_read=args.price_read,
        price_written=args.price_written,
    )
    endpoint = Endpoint(settings, Path(args.cache).expanduser())
    table, out = Path(args.table).expanduser(), Path(args.out).expanduser()
    say(f"sentences of the reports go to {args.endpoint or 'OpenAI'}: make sure that you may send them there")
    try:
        count = align_table(table, out, endpoint, column=args.column, limit=args.limit)
    finally:
        _show(endpoint)
    print(f"reports: {count}\nwritten: {out}")
    print(f"next: wordsight train carzero --manifest {out} --captions-column {args.column} ...")
    return 0


def _show(endpoint: Endpoint) -> None:
    """What was spent, and what the model could not read."""
    usage, settings = endpoint.usage, endpoint.settings
    print(f"requests: {usage.requests}, sentences from the cache: {usage.cached}")
    cost = f", cost: {usage.cost(settings):.4f}" if settings.price_read or settings.price_written else ""
    print(f"tokens read: {usage.tokens_read}, written: {usage.tokens_written}{cost}")
    if endpoint.left_out:
        say(f"note: the endpoint does not accept {' and '.join(sorted(endpoint.left_out))}")
    if endpoint.failed:
        say(f"note: {len(endpoint.failed)} sentences were never answered rightly; rules read these:")
        for sentence, reason in list(endpoint.failed.items())[:5]:
            say(f"  {sentence!r}: {reason}")

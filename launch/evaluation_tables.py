"""Results of launch/evaluate.py as tables on a screen; everything in them is in metrics.json too."""

from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table


def result_tables(results: dict[str, Any]) -> Iterator[Table | str]:
    """What evaluation shows, in order."""
    for name in ("forecast", "reconstruction"):
        yield _by_session(name, results)
        yield from _conventions(name, results)
    yield _calibration(results)
    if "horizons" in results:
        yield _horizons(results)
    listed = [table for table in results["tables"] if not table["name"].startswith(("forecast_", "reconstruction_"))]
    statistics = [table for table in listed if table["name"].startswith("generated_")]
    for table in (table for table in listed if table not in statistics):
        yield _suite_table(table)
    if statistics:
        yield _statistics(statistics)
    yield _comparisons(list(_worth_showing(results)))
    for part, reasons in results["suite"]["left_out"].items():
        by_reason: dict[str, list[str]] = {}
        for session, reason in reasons.items():
            by_reason.setdefault(reason, []).append(session)
        for reason, sessions in by_reason.items():
            yield f"{part}: left out {', '.join(sessions)}: {reason}"


def _by_session(name: str, results: dict[str, Any]) -> Table:
    part = results[name]
    spans = f"{results['horizon_bins']} bins from {results['context_bins']}" if name == "forecast" else "all bins"
    title = f"{name}: {part['metric']}, {spans}, {results['split']} split, {len(results['sessions'])} sessions"
    return _rows(title, part["rows"])


def _suite_table(table: dict[str, Any]) -> Table:
    return _rows(f"{table['title']}: {table['metric']}", table["rows"], lower=table["better"] == "lower")


def _rows(title: str, rows: dict[str, Any], lower: bool = False) -> Table:
    table = _empty(title, "row", "mean", "s.e. over sessions", "worst", "best")
    for row, values in rows.items():
        numbers = sorted((value for value in values["sessions"].values() if value is not None), reverse=lower)
        ends = (numbers[0], numbers[-1]) if numbers else (None, None)
        table.add_row(row, *(_number(value) for value in (values["mean"], values["sem"], *ends)))
    return table


def _conventions(name: str, results: dict[str, Any]) -> Iterator[Table]:
    """The same predictions under the conventions of other repositories: rows by conventions."""
    found = [table for table in results["tables"] if table["name"].startswith(f"{name}_")]
    if not found:
        return
    columns = [table["metric"].removeprefix("bits_per_spike_").replace("_", " ") for table in found]
    shown = _empty(f"{name}, conventions of other repositories: means over sessions", "row", *columns)
    for row in found[0]["rows"]:
        shown.add_row(row, *(_number(table["rows"].get(row, {}).get("mean"), 3) for table in found))
    yield shown


def _horizons(results: dict[str, Any]) -> Table:
    part = results["horizons"]
    leads = [f"{lead}" for lead in part["leads_bins"]]
    table = _empty(f"forecast up to a lead of ... bins of {results['bin_s']:g} s: {part['metric']}", "row", *leads)
    for row, values in part["rows"].items():
        table.add_row(row, *(_number(value, 3) for value in values["mean"]))
    return table


def _statistics(tables: list[dict[str, Any]]) -> Table:
    """One line a statistic, one column a row of its table."""
    rows = list(dict.fromkeys(row for table in tables for row in table["rows"]))
    shown = _empty("generated activity against held-out: less is better, the floor is perfect", "statistic", *rows)
    for table in tables:
        values = (table["rows"].get(row, {}).get("mean") for row in rows)
        shown.add_row(table["metric"].replace("_", " "), *(_number(value) for value in values))
    return shown


def _comparisons(entries: list[dict[str, Any]]) -> Table:
    title = (
        "better row against another, the best of each table (more in the file):\n"
        "difference over sessions, 95 % interval and p by paired bootstrap (of few sessions Student's t)"
    )
    table = _empty(title, "table: better row > other row", "difference", "95 %", "p", "wins")
    for entry in entries:
        interval = "–" if entry["low"] is None else f"{entry['low']:.4f} to {entry['high']:.4f}"
        p = "–" if entry["p"] is None else f"{entry['p']:.4f}"
        lead = f", {entry['lead_bins']}" if "lead_bins" in entry else ""
        wins = f"{entry['wins']} of {entry['sessions']}"
        row = f"{entry['table']}{lead}: {entry['better_row']} > {entry['than_row']}"
        table.add_row(row, f"{entry['difference']:.4f}", interval, p, wins)
    return table


def _worth_showing(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Of each table the comparison with the best other row; all others are in the file."""
    tables = {name: results[name] for name in ("forecast", "reconstruction")}
    tables |= {table["name"]: table for table in results["tables"]}
    for name, table in tables.items():
        if name.startswith(("forecast_", "reconstruction_", "generated_")):
            continue
        sign = -1 if table.get("better") == "lower" else 1
        main = {"forecast": results["head"], "reconstruction": "autoencoder"}.get(name, table.get("main"))
        means = {row: values["mean"] for row, values in table["rows"].items()}
        others = {row: sign * mean for row, mean in means.items() if row != main and mean is not None}
        best = max(others, key=lambda row: others[row], default=None)
        for entry in results["comparisons"]:
            rows = {entry["better_row"], entry["than_row"]}
            if entry["table"] == name and rows == {main, best}:
                yield entry


def _calibration(results: dict[str, Any]) -> Table:
    """Coverage, spread and CRPS over all leads; by lead they are in the file."""
    part = results["calibration"]
    leads = f"leads of 1 to {results['horizon_bins']} bins, {results['samples']} samples"
    levels = (f"{100 * level:g} %" for level in part["levels"])
    title = f"calibration: {leads}\ncalibrated: coverage = level, spread / error = 1"
    table = _empty(title, "row", *levels, "spread", "CRPS")
    for what in ("latents", "units", "population"):
        table.add_section()
        table.add_row(f"[bold]{what}[/bold]")
        for row, whats in part["rows"].items():
            if what in whats:
                figures = whats[what]["stretch"]
                values = [*figures["coverage"]["mean"], figures["spread_skill"]["mean"], figures["crps"]["mean"]]
                table.add_row(row, *(_number(value, 3) for value in values))
    return table


def _empty(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    return table


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"

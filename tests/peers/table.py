"""Writes the results as Markdown: a table for each kind of crawler, the ratios, and what they were measured on."""
import datetime
import os
import pathlib
import platform
import re
import statistics

BEGIN, END = '<!-- bench-peers:begin -->', '<!-- bench-peers:end -->'

CLOCKS = '''\
A rate is pages per second from the first request to the end of the last page, by the crawler's own clock. Ours is the
execution's, of the summary that `crawlify run` prints: from its start until the finisher has seen that every page has
ended, which is a little longer. *Whole run* is from the start of the process to its end, with the start of Chrome
and, for ours, the making of a private Postgres. CPU seconds are those of the whole run and of every process of it, the
web server not among them; the parts are sampled, and *own* is what is neither Chrome nor Postgres.

All browsers are the same program with as many tabs, and all wait for `load`. Peers follow the same links, read the same
fields, each with a call of its own as their documentation shows, and keep items in memory; they are spared the
workflow's waits and transforms. Ours runs and records every node, item and page in Postgres. bare-chrome only
navigates, with our flags; it paints whole windows, and *corner* as little of them as ours: that is the limit. The
crawlers on Playwright have our flags too, but for `--disable-features`, of which Playwright has a list of its own; so
`RenderDocument` is on in theirs. Every page, item and field of every run was compared with a full render of the whole site by
us.'''


def report(setting, results, versions, facts):
    """`results` is (title, [(name, [measurement])]) for each kind; `facts` are lines about the run."""
    parts = ['Measured %s on %s.' % (datetime.date.today().isoformat(), machine()), '\n'.join(facts), CLOCKS]
    for title, rows in results:
        parts.append('### %s\n\n%s' % (title, rates(rows)))
    rows = [row for _, rows in results for row in rows]
    parts.append('### Ratios\n\n%s' % ratios(setting['ratios'], dict(rows)))
    parts.append('Versions: %s.' % ', '.join('%s %s' % pair for pair in versions.items()))
    return '\n\n'.join(parts) + '\n'


def rates(rows):
    lines = [
        '| crawler | pages | items | pages/s, median | lowest .. highest | whole run | CPU | of it Chrome | Postgres '
        '| own |',
        '|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|',
    ]
    for name, runs in rows:
        if not runs:
            continue
        speeds = [run.pages_per_second for run in runs]
        median = lambda value: statistics.median(value(run) for run in runs)
        lines.append('| %s | %d | %s | %.1f | %.1f .. %.1f | %.1f s | %.1f s | %.1f s | %.1f s | %.2f s |' % (
            name, runs[0].pages, '–' if runs[0].items is None else runs[0].items, statistics.median(speeds),
            min(speeds), max(speeds), median(lambda run: run.wall_seconds), median(lambda run: run.cpu_seconds),
            median(lambda run: run.chrome_seconds), median(lambda run: run.postgres_seconds),
            median(lambda run: run.own_seconds)))
    return '\n'.join(lines) + in_common(rows)


def in_common(rows):
    """With a limit each crawler ends with pages of its own choice: says how many were the same."""
    runs = [(name, runs[0]) for name, runs in rows if runs]
    if all(run.urls == runs[0][1].urls for _, run in runs):
        return ''
    name, first = runs[0]
    shares = ['%s %.0f %%' % (other, 100 * len(run.urls & first.urls) / len(first.urls)) for other, run in runs[1:]]
    return '\n\nPages of the first round that were also pages of %s: %s.' % (name, ', '.join(shares))


def ratios(pairs, rows):
    lines = ['| pages/s of | against | of medians | round by round |', '|---|---|---:|---:|']
    for ours, theirs in pairs:
        if not rows.get(ours) or not rows.get(theirs):
            continue
        over, under = ([run.pages_per_second for run in rows[name]] for name in (ours, theirs))
        by_round = [a / b for a, b in zip(over, under)]
        lines.append('| %s | %s | %.2f | %.2f .. %.2f |' % (
            ours, theirs, statistics.median(over) / statistics.median(under), min(by_round), max(by_round)))
    return '\n'.join(lines)


def machine():
    def field(path, pattern):
        found = re.search(pattern, pathlib.Path(path).read_text(encoding='utf-8'), re.MULTILINE)
        return found[1] if found else 'unknown'
    memory = int(field('/proc/meminfo', r'^MemTotal: +(\d+)')) / (1 << 20)
    return '%d cores (%s), %.0f GiB of memory, Linux %s' % (
        len(os.sched_getaffinity(0)), field('/proc/cpuinfo', r'^model name\s*: (.*)'), memory, platform.release())


def write_section(path, text):
    """Puts the text between the marks; a file that has none gets them at its end."""
    path = pathlib.Path(path)
    old = path.read_text(encoding='utf-8') if path.exists() else '# Benchmarks\n'
    section = '%s\n%s%s\n' % (BEGIN, text, END)
    if BEGIN in old and END in old:
        before, _, rest = old.partition(BEGIN)
        new = before + section + rest.partition(END)[2].removeprefix('\n')
    else:
        new = '%s\n\n## Against other crawlers\n\n%s' % (old.rstrip('\n'), section)
    path.write_text(new, encoding='utf-8')

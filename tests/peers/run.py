#!/usr/bin/env python3
"""`make bench-peers`: runs us and other crawlers on the same site in alternation, and prints a table of the results.

Every run is compared with a full render of the whole site by us; a run with other pages, items or fields is a failure,
and so is the whole. Needs Python's standard library alone; the peers are installed beside it (install.py).
"""
import argparse
import collections
import contextlib
import dataclasses
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True  # The checkout stays as it is.

import compare
import crawlers
import install
import processes
import table
from workflow import Unsupported, read_workflow

RUN_LIMIT_SECONDS = 600
SITE_PATIENCE_SECONDS = 30
# In the order of the worker's own search.
CHROMES = ['/usr/lib/chromium/chromium-headless-shell', 'chromium-headless-shell', 'chrome-headless-shell',
           'headless-shell', '/usr/lib/chromium/chromium', 'chromium', 'chromium-browser', 'google-chrome-stable',
           'google-chrome']

Measurement = collections.namedtuple(
    'Measurement',
    'urls pages items pages_per_second wall_seconds cpu_seconds chrome_seconds postgres_seconds own_seconds')


class Fatal(Exception):
    """Why there can be no results."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def options():
    env = os.environ.get
    pages = lambda text: None if text in ('', 'all') else positive(text)
    parser = argparse.ArgumentParser(description='Each option can be given as a variable too, such as ROUNDS=5.')
    add = lambda name, default, **more: parser.add_argument(
        '--' + name, default=env(name.upper().replace('-', '_')) or default, **more)
    add('binary', str(crawlers.ROOT / 'target/release/crawlify'), help='our program')
    add('rounds', '3', type=positive, help='how often each crawler runs')
    add('tabs', '2', type=positive, help='tabs of each browser; slots of ours')
    add('concurrency', '16', type=positive, help='requests at once of the peers without a browser')
    add('pages', '300', type=pages, help='pages of each run with a browser, or `all`')
    add('http-pages', 'all', type=pages, help='pages of each run without a browser, or `all`')
    add('site', '', help='a folder to crawl instead of the built-in shop')
    add('workflow', str(crawlers.ROOT / 'examples/demo_shop.json'), help='the workflow for the site')
    add('only', '', help='names of crawlers, with commas between them')
    add('write', '', help='a Markdown file to write the results into, too')
    return parser.parse_args()


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError('must be 1 or more')
    return number


class Bench:
    def __init__(self, chosen, setting, site, folder):
        self.chosen, self.setting, self.site, self.folder = chosen, setting, site, folder
        self.reference, self.urls, self.failures = None, [], []
        self.count = 0

    def run(self, crawler, pages, setting=None):
        """One run: what it told of itself, and what was seen of it from outside."""
        setting = setting or self.setting
        if self.site.poll() is not None:
            raise Fatal('the site has ended')
        self.count += 1
        folder = self.folder / ('%03d-%s' % (self.count, crawler.name.replace(' ', '-')))
        folder.mkdir()
        finished = processes.run(
            crawler.command(setting, pages, folder), folder, crawler.environment(setting, folder),
            RUN_LIMIT_SECONDS, [self.site.pid])
        try:
            if finished.timed_out:
                raise crawlers.Misbehaved('it was not done within %d s' % RUN_LIMIT_SECONDS)
            if finished.status != 0:
                raise crawlers.Misbehaved('it ended with status %s' % finished.status)
            told = crawler.told(setting, folder)
        except (crawlers.Misbehaved, OSError, ValueError, KeyError) as error:
            printed = (folder / 'stderr').read_text(encoding='utf-8', errors='replace')
            raise Fatal('%s: %r; it printed:\n%s' % (crawler.name, error, printed[-3000:])) from error
        for leftover in finished.leftovers:
            self.fail(crawler, 'it left the process %s behind' % leftover)
        shutil.rmtree(folder)
        return told, finished

    def fail(self, crawler, problem):
        self.failures.append('%s: %s' % (crawler.name, problem))
        say('FAILURE: %s' % self.failures[-1])

    def prepare(self):
        """The reference that all are compared with, and the list of URLs for the bare driver."""
        say('crawling the whole site once, as the reference ...')
        told, _ = self.run(crawlers.FULL, None)
        self.reference = told.items
        for failure in told.failures:
            self.fail(crawlers.FULL, failure)
        if told.pages != len(told.items):
            self.fail(crawlers.FULL, '%d pages, but %d items: each page must give one' % (
                told.pages, len(told.items)))
        confined = re.search(r'sandbox (on|off)(?: \(as ([\w-]+)\))?', told.printed)
        self.setting.sandbox = bool(confined and confined[1] == 'on')
        self.setting.account = confined[2] if confined else None
        postgres = re.search(r'^Postgres ([\d.]+)', told.printed, re.MULTILINE)
        say('listing the URLs ...')
        # With as many requests at once as there are tabs it comes to the pages in the order of the others.
        listed, _ = self.run(crawlers.SCRAPY, None, dataclasses.replace(self.setting, concurrency=self.setting.tabs))
        self.urls = listed.urls
        self.setting.urls_file = self.folder / 'urls'
        self.setting.urls_file.write_text('\n'.join(self.urls), encoding='utf-8')
        return postgres[1] if postgres else 'unknown'

    def measure(self, crawler, pages, number):
        told, finished = self.run(crawler, pages)
        for failure in told.failures:
            self.fail(crawler, failure)
        expected = min(pages or len(self.reference), len(self.reference))
        if told.pages != expected:
            self.fail(crawler, '%d pages instead of %d' % (told.pages, expected))
        if told.items is not None:
            if len(told.items) != expected:
                self.fail(crawler, '%d items instead of %d' % (len(told.items), expected))
            for problem in compare.problems(self.setting.workflow.fields, told.items, self.reference):
                self.fail(crawler, problem)
        rate = told.pages / told.seconds
        say('round %d  %-20s %5d pages  %7.1f pages/s  %6.1f s in all  %6.1f s of CPU' % (
            number, crawler.name, told.pages, rate, finished.wall_seconds, finished.cpu_seconds))
        kinds = finished.cpu_by_kind
        urls = self.urls[:expected] if told.items is None else told.items
        return Measurement(set(urls), told.pages, None if told.items is None else len(told.items), rate,
                           finished.wall_seconds, finished.cpu_seconds, kinds['chrome'], kinds['postgres'],
                           kinds['driver'])

    def alternate(self):
        """Round after round, each second one backwards, so that a machine that slows down slows all."""
        kinds = [
            ('With a browser', self.chosen.pages, crawlers.BROWSER_CRAWLERS),
            ('Without a browser, or with its static lane', self.chosen.http_pages, crawlers.HTTP_CRAWLERS),
        ]
        names = [name for name in self.chosen.only.split(',') if name]
        known = [crawler.name for _, _, group in kinds for crawler in group]
        for name in names:
            if name not in known:
                raise Fatal('there is no crawler `%s`, only: %s' % (name, ', '.join(known)))
        accepted = subprocess.run([self.setting.binary, 'run', '--help'], capture_output=True, text=True,
                                  timeout=30, check=True).stdout
        results = []
        for title, pages, group in kinds:
            taking_part = []
            for crawler in group:
                lacks = [word for word in crawler.options if word.startswith('--') and word not in accepted] \
                    if isinstance(crawler, crawlers.Crawlify) else []
                if lacks:
                    say('skipped: %s, as `crawlify run` has no %s yet' % (crawler.name, ', '.join(lacks)))
                elif not names or crawler.name in names:
                    taking_part.append(crawler)
            rows = {crawler.name: [] for crawler in taking_part}
            for number in range(1, self.chosen.rounds + 1):
                for crawler in taking_part if number % 2 else reversed(taking_part):
                    rows[crawler.name].append(self.measure(crawler, pages, number))
            results.append((title, list(rows.items())))
        return results


@contextlib.contextmanager
def serving(binary, folder):
    """The site: our own small web server, on the loopback address."""
    command = [binary, 'demo-site', '--port', '0'] + (['--dir', folder] if folder else [])
    site = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        ready, _, _ = select.select([site.stdout], [], [], SITE_PATIENCE_SECONDS)
        url = site.stdout.readline().decode().strip() if ready else ''
        if not url.startswith('http://127.0.0.1:'):
            raise Fatal('the site did not start')
        yield site, url.rstrip('/') + '/'
    finally:
        processes.stop(site)


def find_chrome():
    named = os.environ.get('CRAWLIFY_CHROME')
    found = next(filter(None, map(shutil.which, [named] if named else CHROMES)), None)
    if not found:
        raise Fatal('no Chrome or Chromium was found; run `apt-get install chromium-headless-shell`')
    return pathlib.Path(found).resolve()


def version_of(program, *arguments):
    done = subprocess.run([program, *(arguments or ['--version'])], capture_output=True, text=True, timeout=30)
    found = re.search(r'\d+(\.\d+)+', done.stdout)
    return found[0] if found else 'unknown'


def main():
    chosen = options()
    binary = pathlib.Path(chosen.binary).resolve()
    if not binary.is_file():
        raise Fatal('there is no program %s; build it, or name one with BINARY=' % binary)
    workflow_file = pathlib.Path(chosen.workflow).resolve()
    workflow = read_workflow(workflow_file)
    chrome = find_chrome()
    peers = install.install()
    processes.adopt_orphans()
    with tempfile.TemporaryDirectory(prefix='crawlify-peers-') as scratch, \
            serving(binary, chosen.site and pathlib.Path(chosen.site).resolve()) as (site, url):
        # Browsers under another account must reach their profiles.
        os.chmod(scratch, 0o755)
        setting = crawlers.Setting(workflow_file, workflow, url, binary, chrome, chosen.tabs, chosen.concurrency, peers)
        bench = Bench(chosen, setting, site, pathlib.Path(scratch))
        postgres = bench.prepare()
        results = bench.alternate()
    versions = {
        'crawlify': version_of(binary), 'Chrome': '%s (%s)' % (version_of(chrome), chrome.name),
        'Postgres': postgres, 'Node.js': version_of('node'), 'Python': version_of(peers.python),
    } | peers.versions()
    facts = [
        'Site: %s, workflow `%s`: %d link selectors, %d fields. %d tabs in each browser, %d requests at once of the '
        'peers without one; our static lane reads 8 pages at once for each tab. Rounds: %d.' % (
            'a folder of files' if chosen.site else 'the built-in shop', workflow_file.name,
            len(workflow.link_selectors), len(workflow.fields), chosen.tabs, chosen.concurrency,
            chosen.rounds),
    ]
    text = table.report({'ratios': crawlers.RATIOS}, results, versions, facts)
    print(text)
    if bench.failures:
        raise Fatal('%d failures; these results count for nothing:\n  %s' % (
            len(bench.failures), '\n  '.join(bench.failures)))
    if chosen.write:
        table.write_section(chosen.write, text)
        say('written into %s' % chosen.write)


def on_termination(_number, _frame):
    sys.exit(143)


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, on_termination)
    try:
        main()
    except (Fatal, Unsupported, compare.UnknownTransform, crawlers.Misbehaved, install.CannotInstall) as error:
        sys.exit('bench-peers: %s' % error)
    except KeyboardInterrupt:
        sys.exit(130)

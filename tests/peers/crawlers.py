"""The crawlers of the comparison: how each is started, and what it says of its run.

Each does the same work on the same site: our workflow's links and fields. Chrome's program, the number of tabs and,
where a crawler accepts them, Chrome's flags are the same for all that use a browser.
"""
import collections
import dataclasses
import json
import os
import pathlib
import pwd
import re
import shutil

import compare

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
FLAGS_SOURCE = ROOT / 'worker' / 'src' / 'chrome' / 'flags.rs'
# Nothing but the site under test can be reached, whatever a page or a browser asks for.
RESOLVER_RULES = '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1'
# Playwright sets these itself: it refuses the first two, and a second `disable-features` would replace its own.
PLAYWRIGHTS_OWN = ('remote-debugging-pipe', 'user-data-dir', 'headless', 'disable-features')
# For whom no number of pages is given.
ALL_PAGES = 1_000_000_000

# What a run says of itself. `items` is URL -> data, or None where nothing is extracted; `failures` are sentences.
Told = collections.namedtuple('Told', 'pages seconds items failures urls printed')


class Misbehaved(Exception):
    """A run ended without telling what it did."""


@dataclasses.dataclass
class Setting:
    """What is the same for all crawlers of a benchmark."""
    workflow_file: pathlib.Path
    workflow: object
    start_url: str
    binary: pathlib.Path
    chrome: pathlib.Path
    tabs: int
    concurrency: int
    peers: object
    # Told by our first run.
    sandbox: bool = False
    account: str = None
    # Told by Scrapy's first run.
    urls_file: pathlib.Path = None


def our_chrome_flags():
    """Chrome's flags as our worker gives them, from their only list."""
    source = FLAGS_SOURCE.read_text(encoding='utf-8')
    block = re.search(r'const ALWAYS: .*?= &\[(.*?)\n\];', source, re.DOTALL)
    flags = re.findall(r'\(\s*"([a-z0-9-]+)",\s*"([^"]*)",?\s*\)', block[1]) if block else []
    if ('remote-debugging-pipe', '') not in flags or len(flags) < 20:
        raise Misbehaved('%s does not hold the list of flags as it did' % FLAGS_SOURCE)
    return ['--%s=%s' % flag if flag[1] else '--%s' % flag[0] for flag in flags] + [RESOLVER_RULES]


class Crawlify:
    """Our program: one process with its private Postgres, everything recorded."""

    def __init__(self, name, options=()):
        self.name, self.options = name, list(options)

    def command(self, setting, pages, folder):
        return [
            setting.binary, 'run', setting.workflow_file, '--start-url', setting.start_url, '--max-depth', '60',
            '--rate-limit-delay', '0', '--slots', str(setting.tabs), '--max-pages', str(pages or ALL_PAGES),
            '-o', folder / 'items.jsonl', *self.options,
        ]

    def environment(self, setting, _folder):
        environment = {name: value for name, value in os.environ.items() if not name.startswith('CRAWLIFY_')}
        if 'CRAWLIFY_PG_BIN' in os.environ:
            environment['CRAWLIFY_PG_BIN'] = os.environ['CRAWLIFY_PG_BIN']
        return environment | {'CRAWLIFY_CHROME': str(setting.chrome), 'CRAWLIFY_CHROME_FLAGS': RESOLVER_RULES}

    def told(self, setting, folder):
        """Reads the summary. Its rate has more digits than its duration, and is made of the execution's own times:
        from the start to the finisher's word that every page has ended."""
        printed = (folder / 'stderr').read_text(encoding='utf-8', errors='replace')
        line = re.search(r'^ *pages +(\d+) completed(.*?) · (\d+) p/min$', printed, re.MULTILINE)
        if not line:
            raise Misbehaved('no line of pages with a rate in what it printed')
        pages, failed = int(line[1]), re.search(r'(\d+) failed', line[2])
        failures = ['%s pages failed' % failed[1]] if failed else []
        items, doubled = compare.read_items(folder / 'items.jsonl')
        seconds = (pages + int(failed[1] if failed else 0)) * 60 / int(line[3])
        return Told(pages, seconds, items, failures + ['%s comes twice' % url for url in doubled], [], printed)


class Peer:
    """A crawler of others, or the bare driver: a script of this folder that reads a job and writes a report."""

    def __init__(self, name, script, options=(), playwright=False, bare=False):
        self.name, self.script, self.options = name, script, list(options)
        self.playwright, self.bare = playwright, bare

    def command(self, setting, pages, folder):
        job = {
            'workflow': str(setting.workflow_file), 'start_url': setting.start_url, 'pages': pages,
            'tabs': setting.tabs, 'concurrency': setting.concurrency, 'chrome': str(setting.chrome),
            'chrome_flags': self.chrome_flags(setting, folder), 'items': str(folder / 'items.jsonl'),
            'report': str(folder / 'report.json'), 'urls': str(setting.urls_file),
            'account': self.account(setting, folder),
        }
        (folder / 'job.json').write_text(json.dumps(job), encoding='utf-8')
        program = setting.peers.python if self.script.endswith('.py') else 'node'
        return [program, HERE / self.script, folder / 'job.json', *self.options]

    def chrome_flags(self, setting, folder):
        if self.playwright:
            return [flag for flag in our_chrome_flags() if flag[2:].split('=')[0] not in PLAYWRIGHTS_OWN]
        own = ['--user-data-dir=%s' % (folder / 'profile')]
        return our_chrome_flags() + own + ([] if setting.sandbox else ['--no-sandbox'])

    def account(self, setting, folder):
        """Bare Chrome runs as ours does: with the sandbox, and under the account, that our first run printed.
        Playwright gives Chrome no sandbox by default, and is left its way."""
        if not self.bare:
            return None
        profile = folder / 'profile'
        profile.mkdir()
        account = pwd.getpwnam(setting.account) if setting.account else None
        if account:
            shutil.chown(profile, account.pw_uid, account.pw_gid)
        return {'home': str(profile), 'uid': account and account.pw_uid, 'gid': account and account.pw_gid}

    def environment(self, setting, folder):
        # What Playwright leaves behind goes with the folder.
        return os.environ | {
            'NODE_PATH': str(setting.peers.node_path), 'PYTHONDONTWRITEBYTECODE': '1', 'TMPDIR': str(folder),
        }

    def told(self, setting, folder):
        if not (folder / 'report.json').exists():
            raise Misbehaved('it wrote no report')
        report = json.loads((folder / 'report.json').read_text(encoding='utf-8'))
        failures, items = list(report['failures']), None
        if not self.bare:
            raw, doubled = compare.read_items(folder / 'items.jsonl')
            items = {url: compare.refined(setting.workflow.fields, data) for url, data in raw.items()}
            failures += ['%s comes twice' % url for url in doubled]
        return Told(report['pages'], report['seconds'], items, failures, report.get('visited', []), '')


FULL = Crawlify('crawlify full')
STATIC = Crawlify('crawlify static', ['--render', 'static'])
BLOCKED = Crawlify('crawlify blocked', ['--block', 'image,stylesheet,font,media'])
SCRAPY = Peer('scrapy', 'scrapy_crawl.py')
BARE = Peer('bare-chrome', 'bare_chrome.js', bare=True)
CORNER = Peer('bare-chrome corner', 'bare_chrome.js', ['--corner'], bare=True)
BROWSER_CRAWLERS = [
    FULL, BLOCKED, BARE, CORNER,
    Peer('crawlee-playwright', 'crawlee_playwright.js', playwright=True),
    Peer('scrapy-playwright', 'scrapy_crawl.py', ['--playwright'], playwright=True),
]
HTTP_CRAWLERS = [STATIC, SCRAPY, Peer('crawlee-cheerio', 'crawlee_cheerio.js')]
# Which rates are held against each other.
RATIOS = [
    (FULL.name, BARE.name), (FULL.name, CORNER.name),
    (FULL.name, 'crawlee-playwright'), (FULL.name, 'scrapy-playwright'),
    (BLOCKED.name, BARE.name), (BLOCKED.name, CORNER.name), (STATIC.name, 'scrapy'), (STATIC.name, 'crawlee-cheerio'),
]

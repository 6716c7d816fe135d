"""Installs the peers from npm and PyPI, in the versions that package.json and requirements.txt pin.

They go into a folder outside the checkout, one for each set of versions, which the next run uses again. No browser is
ever downloaded: all use the Chrome that is installed.
"""
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
LIMIT_SECONDS = 900
# What is reported with the results.
NODE_PACKAGES = ['@crawlee/playwright', '@crawlee/cheerio', 'playwright']
PYTHON_PACKAGES = ['scrapy', 'scrapy-playwright', 'playwright', 'twisted', 'lxml']


class CannotInstall(Exception):
    """A tool is missing, or a registry did not answer."""


class Peers:
    """Where the installed peers are."""

    def __init__(self, folder):
        self.folder = folder
        self.node_path = folder / 'node' / 'node_modules'
        self.python = folder / 'python' / 'bin' / 'python'

    def versions(self):
        found = {}
        for name in NODE_PACKAGES:
            text = (self.node_path / name / 'package.json').read_text(encoding='utf-8')
            found['%s (Node)' % name if name == 'playwright' else name] = json.loads(text)['version']
        code = 'import sys, importlib.metadata as m; print(*[m.version(name) for name in sys.argv[1:]])'
        answer = subprocess.run([self.python, '-c', code, *PYTHON_PACKAGES], check=True, capture_output=True,
                                text=True, timeout=60)
        for name, version in zip(PYTHON_PACKAGES, answer.stdout.split()):
            found['%s (Python)' % name if name == 'playwright' else name] = version
        return found


def install():
    pins = [HERE / 'package.json', HERE / 'requirements.txt']
    name = hashlib.sha256(b'\0'.join(pin.read_bytes() for pin in pins) + sys.version.encode()).hexdigest()[:12]
    cache = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache')
    peers = Peers(cache / 'crawlify' / 'peers' / name)
    complete = peers.folder / 'complete'
    if complete.exists():
        return peers
    for program in ('node', 'npm'):
        if shutil.which(program) is None:
            raise CannotInstall('there is no `%s`; install Node.js 18 or newer (Debian: nodejs and npm)' % program)
    print('installing the peers into %s ...' % peers.folder, file=sys.stderr)
    # What an interrupted installation left cannot be trusted.
    shutil.rmtree(peers.folder, ignore_errors=True)
    (peers.folder / 'node').mkdir(parents=True)
    shutil.copy(HERE / 'package.json', peers.folder / 'node')
    run(['npm', 'install', '--no-audit', '--no-fund', '--no-package-lock'], peers.folder / 'node')
    run([sys.executable, '-m', 'venv', 'python'], peers.folder,
        'Debian keeps it in the package python3-venv')
    run([peers.python, '-m', 'pip', 'install', '--quiet', '--requirement', HERE / 'requirements.txt'], peers.folder)
    complete.touch()
    return peers


def run(command, folder, advice='is the registry reachable?'):
    environment = os.environ | {'PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD': '1'}
    shown = ' '.join(map(str, command))
    try:
        done = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        raise CannotInstall('`%s` took longer than %d s' % (shown, LIMIT_SECONDS)) from None
    if done.returncode != 0:
        raise CannotInstall('`%s` failed (%s):\n%s' % (shown, advice, (done.stdout + done.stderr)[-2000:]))

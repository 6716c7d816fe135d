#!/usr/bin/env python3
"""Compares what a crawl of a book shop wrote with the ground truth.

    tests/compare_books.py ITEMS.jsonl EXPECTED.jsonl

ITEMS.jsonl is what `crawlify run ... -o ITEMS.jsonl` wrote. EXPECTED.jsonl has one book a line: the file that the
builder of the books site writes, or the one that the demo shop serves at /expected.jsonl.

Every book must be there once, with every field equal. List pages give items too; they are known by their address and
ignored, but no address may come twice. Prints the differences (the first of each kind) and one line of summary; the
exit status is 0 when all is equal, 1 on any difference, 2 on wrong usage. Python's standard library only.
"""
import collections
import decimal
import json
import re
import sys
import urllib.parse

SHOWN = 5  # differences of one kind
LIST_PAGE = re.compile(r'^/(index\.html)?$|/category/|/page-\d+\.html$')
CURRENCY_SIGNS = '£$€'


def amount(text):
    return text.strip(CURRENCY_SIGNS)


# Our output key -> what the truth says about it.
FIELDS = {
    'title': lambda book: book['title'],
    'price': lambda book: amount(book['price']),
    'currency': lambda book: book['price'][0],
    'rating': lambda book: book['rating'],
    'availability': lambda book: book['availability'],
    'upc': lambda book: book['upc'],
    'product_type': lambda book: book['product_type'],
    'price_excl_tax': lambda book: amount(book['price_excl_tax']),
    'price_incl_tax': lambda book: amount(book['price_incl_tax']),
    'tax': lambda book: amount(book['tax']),
    'number_of_reviews': lambda book: book['num_reviews'],
    'category': lambda book: book['category'],
}
# A workflow may turn these into numbers.
NUMBERS = {'price', 'price_excl_tax', 'price_incl_tax', 'tax', 'number_of_reviews'}
# What `description` may be; the same reading must hold for all books. The workflow that users of the old system have
# says `#product_description + p, #content_inner p`: of a selector list the first match in the document counts, and
# that is the price on every page, in the old system as well.
DESCRIPTIONS = {
    'the description': lambda book: book['description'] or '',
    'the first paragraph, which is the price': lambda book: book['price'],
}


class Differences:
    def __init__(self):
        self.by_kind = collections.OrderedDict()

    def add(self, kind, text):
        self.by_kind.setdefault(kind, []).append(text)

    def count(self, kind):
        return len(self.by_kind.get(kind, ()))

    def show(self):
        for kind, texts in self.by_kind.items():
            print('%s: %d' % (kind, len(texts)))
            for text in texts[:SHOWN]:
                print('    ' + text)
            if len(texts) > SHOWN:
                print('    ... and %d more' % (len(texts) - SHOWN))


def shown(value):
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + '...'


def equal(key, found, wanted):
    if key in NUMBERS and isinstance(found, (int, float)) and not isinstance(found, bool):
        return decimal.Decimal(repr(found)) == decimal.Decimal(wanted)
    return found == wanted


def read_items(path, differences):
    """Yields (url, data) of every well-formed line."""
    with open(path, encoding='utf-8') as file:
        for number, line in enumerate(file, 1):
            try:
                item = json.loads(line)
                url, data = item['url'], item['data']
                urllib.parse.urlsplit(url)
                item['extracted_at']
                if not isinstance(data, dict):
                    raise TypeError('data is no object')
                yield url, data
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                differences.add('malformed lines', 'line %d: %s: %s' % (number, type(error).__name__, error))


def page_path(url):
    return urllib.parse.unquote(urllib.parse.urlsplit(url).path)


def compare_book(path, url, data, book, differences):
    """Compares all fields but the description; returns how many were compared."""
    for key, truth in FIELDS.items():
        wanted = truth(book)
        if key not in data:
            differences.add('wrong fields', '%s: %s is missing, expected %s' % (path, key, shown(wanted)))
        elif not equal(key, data[key], wanted):
            differences.add('wrong fields', '%s: %s is %s, expected %s' % (path, key, shown(data[key]), shown(wanted)))
    # The attribute as the page has it: relative to the page.
    image = data.get('image_url')
    if not isinstance(image, str) or not image or page_path(urllib.parse.urljoin(url, image)) != book['image']:
        differences.add('wrong fields', '%s: image_url is %s, expected %s' % (path, shown(image), book['image']))
    return len(FIELDS) + 1


def compare_descriptions(found, expected, differences):
    """Holds all descriptions against each reading and reports on the one that fits best; returns its name."""
    wrong = {
        name: [path for path, data in found.items() if data.get('description') != reading(expected[path])]
        for name, reading in DESCRIPTIONS.items()
    }
    name = min(wrong, key=lambda name: len(wrong[name]))
    for path in wrong[name]:
        wanted = DESCRIPTIONS[name](expected[path])
        differences.add('wrong fields', '%s: description is %s, expected %s' % (
            path, shown(found[path].get('description')), shown(wanted)))
    return name


def main(items_path, expected_path):
    with open(expected_path, encoding='utf-8') as file:
        expected = {book['path']: book for book in map(json.loads, file)}
    differences = Differences()
    found, urls, hosts, lists, fields = {}, set(), collections.Counter(), 0, 0
    for url, data in read_items(items_path, differences):
        path = page_path(url)
        hosts[urllib.parse.urlsplit(url).netloc] += 1
        if url in urls or path in found:
            differences.add('duplicates', url)
            continue
        urls.add(url)
        if path in expected:
            found[path] = data
            fields += compare_book(path, url, data, expected[path], differences)
        elif LIST_PAGE.search(path):
            lists += 1
        else:
            differences.add('unexpected items', url)
    for host, count in hosts.most_common()[1:]:
        differences.add('other hosts', '%s: %d items' % (host, count))
    for path in expected:
        if path not in found:
            differences.add('missing books', path)
    reading = compare_descriptions(found, expected, differences)
    fields += len(found)

    differences.show()
    same = bool(expected) and not differences.by_kind
    print('%s: %d of %d books, %d missing, %d duplicates, %d unexpected, %d of %d fields wrong (description: %s), '
          '%d list pages ignored' % (
              'EQUAL' if same else 'DIFFERENT', len(found), len(expected), differences.count('missing books'),
              differences.count('duplicates'), differences.count('unexpected items'),
              differences.count('wrong fields'), fields, reading, lists))
    return 0 if same else 1


if __name__ == '__main__':
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    try:
        sys.exit(main(sys.argv[1], sys.argv[2]))
    except OSError as error:
        print('compare_books: %s' % error, file=sys.stderr)
        sys.exit(2)

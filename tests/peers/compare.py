"""Holds what a run extracted against the reference: every page's fields must be equal to what our full render gave.

Peers write fields as they are on the page, trimmed; the workflow's transforms and defaults are applied here, so that
the peers are spared them in the time that is measured.
"""
import json
import re

SHOWN = 3


class UnknownTransform(Exception):
    """A transform of the workflow that is not known here."""


def read_items(path):
    """Reads a file of items: URL -> data. Says which URLs come twice."""
    items, doubled = {}, []
    with open(path, encoding='utf-8') as file:
        for line in file:
            item = json.loads(line)
            if item['url'] in items:
                doubled.append(item['url'])
            items[item['url']] = item['data']
    return items, doubled


def refined(fields, data):
    """What a peer read, as the workflow wants it."""
    values = {}
    for field in fields:
        value = data.get(field.key)
        values[field.key] = field.default if value is None else transformed(field.transforms, value)
    return values


def problems(fields, items, reference):
    """How `items` differ from the reference, in words; empty where all are equal."""
    found = []
    unknown = [url for url in items if url not in reference]
    if unknown:
        found.append('%d pages that the reference has no item of, such as %s' % (len(unknown), unknown[0]))
    different = []
    for url in items.keys() & reference.keys():
        for field in fields:
            ours, theirs = plain(reference[url].get(field.key)), plain(items[url].get(field.key))
            if ours != theirs:
                different.append('%s of %s: %r is not %r' % (field.key, url, theirs, ours))
    if different:
        found.append('%d fields differ: %s' % (len(different), '; '.join(sorted(different)[:SHOWN])))
    return found


def plain(value):
    # Peers trim everything; the workflow does not always ask for that.
    return value.strip() if isinstance(value, str) else value


def transformed(transforms, value):
    for step in transforms:
        if not isinstance(value, str):
            return value
        name, params = step['type'], step.get('params', {})
        if name == 'trim':
            value = value.strip()
        elif name == 'regex':
            replacement = re.sub(r'\$(\d)', r'\\g<\1>', params['replacement'])
            value = re.sub(params['pattern'], replacement, value)
        elif name == 'replace':
            value = value.replace(params['old'], params['new'])
        elif name == 'parse_int':
            value = number(int, value)
        elif name == 'parse_float':
            value = number(float, value)
        else:
            raise UnknownTransform(name)
    return value


def number(kind, text):
    try:
        return kind(text)
    except ValueError:
        return text

"""Reads one of our workflow files for the Python peers and for run.py: links to follow, fields to extract.

Peers know links by selector, patterns that exclude links, and fields of one element's text or attribute. A workflow
that says more is refused: it could not be the same work for all.
"""
import dataclasses
import json
import re


class Unsupported(Exception):
    """The workflow asks for something that the peers do not do."""


@dataclasses.dataclass
class Field:
    key: str
    selector: str
    attribute: str  # None where the text is wanted
    transforms: list
    default: object


@dataclasses.dataclass
class Workflow:
    link_selectors: list
    excluded: list
    fields: list


def read_workflow(path):
    with open(path, encoding='utf-8') as file:
        config = json.load(file)['config']
    selectors, excluded = [], []
    for node in config.get('url_discovery', []):
        params = node.get('params', {})
        if node['type'] == 'extract_links':
            selectors.append(params['selector'])
        elif node['type'] == 'filter_urls':
            if params.get('include_patterns'):
                raise Unsupported('%s: include_patterns' % node['id'])
            excluded += [re.compile(pattern) for pattern in params.get('exclude_patterns', [])]
        elif node['type'] != 'wait_for':
            raise Unsupported('%s: a node of type %s' % (node['id'], node['type']))
    fields = [read_field(node) for node in config.get('data_extraction', []) if node['type'] != 'wait_for']
    return Workflow(selectors, excluded, fields)


def read_field(node):
    params = node.get('params', {})
    if node['type'] != 'extract' or params.get('multiple') or params.get('type', 'text') not in ('text', 'attr'):
        raise Unsupported('%s: only the text or an attribute of one element' % node['id'])
    attribute = params['attribute'] if params.get('type') == 'attr' else None
    return Field(node['output_key'], params['selector'], attribute, params.get('transform', []),
                 params.get('default_value'))

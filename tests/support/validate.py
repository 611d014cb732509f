"""Validates YAML files against a JSON Schema (draft-07), which is itself checked first: validate.py SCHEMA FILE…

Prints a JSON list of [file, [what is wrong with it, …]].
"""

import json
import sys

import jsonschema
import ruamel.yaml

schema = json.load(open(sys.argv[1]))
jsonschema.Draft7Validator.check_schema(schema)
validator = jsonschema.Draft7Validator(schema)
# YAML 1.2 as in recipes, where `3e-4` is a number.
yaml = ruamel.yaml.YAML(typ="safe", pure=True)


def mistakes(path):
    document = yaml.load(open(path))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


print(json.dumps([[path, mistakes(path)] for path in sys.argv[2:]]))

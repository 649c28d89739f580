"""The step protocol: generated code is fresh, and every part of it is explained."""

import importlib.util
import re
import tomllib
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROTO = ROOT / "proto" / "shard.proto"


def test_the_generated_package_is_not_stale():
    spec = importlib.util.spec_from_file_location(
        "generate_proto", ROOT / "tools" / "generate_proto.py"
    )
    generate_proto = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate_proto)
    assert generate_proto.stale_files() == [], "run `make proto`"


def test_the_packages_asked_for_are_not_older_than_the_generated_code_takes():
    """Both check it when they are imported, which would be the first that an installation says."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {each.name: each.specifier for each in map(Requirement, project["dependencies"])}
    package = ROOT / "proto" / "text_generation_proto"
    for name, file, pattern in (
        ("protobuf", "shard_pb2.py", r"Protobuf Python Version: ([\d.]+)"),
        ("grpcio", "shard_pb2_grpc.py", r"GRPC_GENERATED_VERSION = '([\d.]+)'"),
    ):
        (taken,) = re.findall(pattern, (package / file).read_text())
        (least,) = (Version(each.version) for each in asked[name] if each.operator == ">=")
        assert least >= Version(taken), name


def unexplained(path, folder):
    """Names of the rpcs, fields and enum values that no comment explains.

    A comment stands above, at the end of the line, or above the line before: parallel arrays are
    explained together. An enum's UNSPECIFIED explains itself.
    """
    descriptors = folder / "descriptors"
    flags = [f"-I{path.parent}", f"--descriptor_set_out={descriptors}", "--include_source_info"]
    assert protoc.main(["protoc", *flags, str(path)]) == 0
    (file,) = FileDescriptorSet.FromString(descriptors.read_bytes()).file
    places = {tuple(place.path): place for place in file.source_code_info.location}
    explained_lines = {
        place.span[0]
        for place in places.values()
        if place.leading_comments or place.trailing_comments
    }
    missing = []
    for path_, name in sorted(parts(file), key=lambda part: places[part[0]].span[0]):
        line = places[path_].span[0]
        if line in explained_lines or name.endswith("_UNSPECIFIED"):
            continue
        if line - 1 in explained_lines:
            explained_lines.add(line)
            continue
        missing.append(name)
    return missing


def parts(file):
    """(path, name) of every rpc, field and enum value; paths as in SourceCodeInfo."""
    for number, service in enumerate(file.service):
        path = (FileDescriptorProto.SERVICE_FIELD_NUMBER, number)
        for index, method in enumerate(service.method):
            yield (*path, ServiceDescriptorProto.METHOD_FIELD_NUMBER, index), method.name
    for number, message in enumerate(file.message_type):
        yield from message_parts((FileDescriptorProto.MESSAGE_TYPE_FIELD_NUMBER, number), message)
    for number, enum in enumerate(file.enum_type):
        yield from enum_parts((FileDescriptorProto.ENUM_TYPE_FIELD_NUMBER, number), enum)


def message_parts(path, message):
    for index, field in enumerate(message.field):
        name = f"{message.name}.{field.name}"
        yield (*path, DescriptorProto.FIELD_FIELD_NUMBER, index), name
    for index, nested in enumerate(message.nested_type):
        yield from message_parts((*path, DescriptorProto.NESTED_TYPE_FIELD_NUMBER, index), nested)
    for index, enum in enumerate(message.enum_type):
        yield from enum_parts((*path, DescriptorProto.ENUM_TYPE_FIELD_NUMBER, index), enum)


def enum_parts(path, enum):
    for index, value in enumerate(enum.value):
        yield (*path, EnumDescriptorProto.VALUE_FIELD_NUMBER, index), value.name


def test_the_check_sees_what_is_missing(tmp_path):
    path = tmp_path / "example.proto"
    path.write_text(
        """syntax = "proto3";
message A {
  enum Kind {
    KIND_UNSPECIFIED = 0;
    KIND_ODD = 1;
  }
  // Explained.
  uint32 first = 1;
  repeated uint32 with_it = 2;
  repeated uint32 and_this = 3;

  float alone = 4;

  float ended = 5;  // Explained.
}
service S {
  rpc Run(A) returns (A);
}
"""
    )
    assert unexplained(path, tmp_path) == ["KIND_ODD", "A.alone", "Run"]


def test_every_part_is_explained(tmp_path):
    assert unexplained(PROTO, tmp_path) == []

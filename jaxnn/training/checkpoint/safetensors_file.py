"""The safetensors format, with checksums.

A file is the length of its header (8 bytes, little-endian), the header, and the data of one tensor
after another. The header is JSON: the dtype, shape and place of each tensor, and text under
`__metadata__`, which includes the two SHA-256 checksums that `write_tensors` adds. One covers the
data. The other covers the rest of the file, including the first: the length and the header, with
zeros in place of this checksum itself.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from io import BufferedReader
from math import prod
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

DTYPES = {
    "BOOL": np.dtype(bool),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "C64": np.dtype(np.complex64),
}
"""The dtypes that the format holds, by the names that it gives them."""

HEADER_CHECKSUM, DATA_CHECKSUM = "jaxnn.sha256", "jaxnn.data_sha256"
BLANK = "0" * 64
START = f'{{"__metadata__":{{"{HEADER_CHECKSUM}":"'.encode()
MARKS = (f'"{HEADER_CHECKSUM}":'.encode(), f'"{DATA_CHECKSUM}":'.encode())
CHUNK = 1 << 20


class Tensor(NamedTuple):
    """A tensor as the format holds it."""

    dtype: np.dtype
    shape: tuple[int, ...]
    array: Any
    """Any array with the same bytes in row-major order; it may have another dtype and shape."""


class Place(NamedTuple):
    """A tensor's entry in the header."""

    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def write_tensors(
    file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors one by one, then the checksums of the written bytes.

    Args:
        file: an empty file.
        tensors: the tensors by name.
        metadata: text by key.
    """
    codes = {dtype: code for code, dtype in DTYPES.items()}
    texts = {HEADER_CHECKSUM: BLANK, DATA_CHECKSUM: BLANK} | dict(metadata)
    header: dict[str, Any] = {"__metadata__": texts}
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)  # keeps alignment
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + prod(tensor.shape) * tensor.dtype.itemsize
        header[name] = {
            "dtype": codes[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": (begin, end),
        }
    file.write(_encoded(header))
    checksum = hashlib.sha256()
    for _, tensor in ordered:
        data = _bytes_of(tensor.array)
        checksum.update(data)
        file.write(data)
    texts[DATA_CHECKSUM] = checksum.hexdigest()
    texts[HEADER_CHECKSUM] = hashlib.sha256(_encoded(header)).hexdigest()
    file.seek(0)
    file.write(_encoded(header))


class TensorReader:
    """An open safetensors file, its header read and checked.

    A file without checksums, from another program, is read too. One damaged bit cannot make a file
    look like that, because a header with either checksum's key is checked against both.

    Attributes:
        metadata: text by key, without the checksums.
        places: the entry of each tensor.
    """

    def __init__(self, file: BufferedReader, path: str | os.PathLike):
        """Read the header.

        Raises:
            ValueError: the file is damaged, or of another format.
        """
        self._file, self._path = file, path
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > size - 8:
            raise self._error("it is truncated, damaged or not a safetensors file")
        header = file.read(length)
        self._checked = any(mark in header for mark in MARKS)
        if self._checked:
            self._check_header(prefix, header)
        self.metadata, self.places = self._parsed(header, size - 8 - length)
        self.metadata.pop(HEADER_CHECKSUM, None)
        self._data_checksum = self.metadata.pop(DATA_CHECKSUM, None)

    def read(self, names: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
        """The tensors of these names, one by one; after the last, the data's checksum is compared.

        Raises:
            ValueError: the data is damaged.
        """
        start = self._file.tell()
        checksum = hashlib.sha256()
        for name, place in sorted(self.places.items(), key=lambda item: item[1].begin):
            if name in names:
                array = np.empty(place.shape, place.dtype)
                data = array.reshape(-1).view(np.uint8).data
                if self._file.readinto(data) < data.nbytes:
                    raise self._error("it is truncated")
                if self._checked:
                    checksum.update(data)
                yield name, array
            elif self._checked:
                for begin in range(place.begin, place.end, CHUNK):
                    checksum.update(self._file.read(min(CHUNK, place.end - begin)))
            else:
                self._file.seek(start + place.end)
        if self._checked and checksum.hexdigest() != self._data_checksum:
            raise self._error("its data does not have the checksum that it was saved with")

    def _check_header(self, prefix: bytes, header: bytes) -> None:
        begin = len(START)
        end = begin + len(BLANK)
        blanked = header[:begin] + BLANK.encode() + header[end:]
        found = hashlib.sha256(prefix + blanked).hexdigest().encode()
        if not header.startswith(START) or header[begin:end] != found:
            raise self._error("its header does not have the checksum that it was saved with")

    def _parsed(self, header: bytes, size: int) -> tuple[dict[str, str], dict[str, Place]]:
        try:
            entries = json.loads(header)
            metadata = dict(entries.pop("__metadata__", None) or {})
            if not all(type(text) is str for text in metadata.values()):
                raise TypeError("metadata must be text")
            places = {name: _place(entry) for name, entry in entries.items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise self._error("its header is damaged or not that of a safetensors file") from error
        end = 0
        for name, place in sorted(places.items(), key=lambda item: item[1][2:]):
            if place.begin != end or place.end - end != prod(place.shape) * place.dtype.itemsize:
                raise self._error(f"the place of tensor {name!r} does not fit its shape")
            end = place.end
        if end != size:
            raise self._error(f"it has {size} bytes of data where the header lists {end}")
        return metadata, places

    def _error(self, reason: str) -> ValueError:
        return ValueError(f"{os.fspath(self._path)} cannot be loaded: {reason}")


def _encoded(header: dict) -> bytes:
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes_of(array) -> memoryview:
    array = np.asarray(array, order="C")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array.reshape(-1).view(np.uint8).data


def _place(entry: dict) -> Place:
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if any(type(n) is not int or n < 0 for n in (*shape, begin, end)):
        raise ValueError("a size must be a natural number")
    return Place(DTYPES[entry["dtype"]], shape, begin, end)

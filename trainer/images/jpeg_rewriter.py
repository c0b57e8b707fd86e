"""A program of its own: the JPEG on its standard input comes out with the same coefficients and with restart markers.

    python jpeg_rewriter.py LIBRARY MCUS < source > rewritten

The library is a libjpeg of version 6.2's interface (libjpeg-turbo), as wheels of Pillow bring one along. It ends the
process at the first error, as it does by itself, which is why this is a program; nothing of the package is imported.
The structures are those of jpeglib.h; the library refuses them if their sizes are not its own.
"""

import ctypes
import sys
from ctypes import POINTER, byref, c_char_p, c_double, c_int, c_long, c_ubyte, c_uint, c_ulong, c_ushort, c_void_p
from typing import Any

VERSION = 62
_TABLES = 4  # NUM_QUANT_TBLS, NUM_HUFF_TBLS, MAX_COMPS_IN_SCAN
_Pointers = c_void_p * _TABLES


class _Errors(ctypes.Structure):
    """struct jpeg_error_mgr."""

    _fields_ = [
        ("methods", c_void_p * 5),
        ("code", c_int),
        ("parameters", c_ubyte * 80),
        ("trace_level", c_int),
        ("warnings", c_long),
        ("messages", c_void_p),
        ("last", c_int),
        ("more_messages", c_void_p),
        ("more", c_int * 2),
    ]


_COMMON: list[tuple[str, Any]] = [
    ("err", c_void_p),
    ("mem", c_void_p),
    ("progress", c_void_p),
    ("client", c_void_p),
    ("state", c_int * 2),
]
_ARITHMETIC = ("arithmetic", c_ubyte * 48)
_SCAN: list[tuple[str, Any]] = [
    ("per_row", c_uint * 2),
    ("blocks", c_int),
    ("membership", c_int * 10),
    ("spectral", c_int * 4),
]


class _Source(ctypes.Structure):
    """struct jpeg_decompress_struct."""

    _fields_ = [
        *_COMMON,
        ("src", c_void_p),
        ("size", c_uint * 2),
        ("components", c_int),
        ("spaces", c_int * 2),
        ("scale", c_uint * 2),
        ("gamma", c_double),
        ("choices", c_int * 12),  # from buffered_image to enable_2pass_quant
        ("output_size", c_uint * 2),
        ("output", c_int * 4),
        ("colormap", c_void_p),
        ("progress_made", c_int * 5),  # from output_scanline to output_iMCU_row
        ("coefficient_bits", c_void_p),
        ("quantization", _Pointers),
        ("huffman", _Pointers * 2),
        ("precision", c_int),
        ("component_info", c_void_p),
        ("coding", c_int * 2),
        _ARITHMETIC,
        ("restart_interval", c_uint),
        ("saw_jfif", c_int),
        ("jfif", c_ubyte * 3),
        ("density", c_ushort * 2),
        ("saw_adobe", c_int),
        ("adobe", c_ubyte),
        ("ccir601", c_int),
        ("markers", c_void_p),
        ("factors", c_int * 3),
        ("rows", c_uint),
        ("range_limit", c_void_p),
        ("in_scan", c_int),
        ("scanned", _Pointers),
        *_SCAN,
        ("unread_marker", c_int),
        ("modules", c_void_p * 11),
    ]


class _Destination(ctypes.Structure):
    """struct jpeg_compress_struct."""

    _fields_ = [
        *_COMMON,
        ("dest", c_void_p),
        ("size", c_uint * 2),
        ("input", c_int * 2),
        ("gamma", c_double),
        ("precision", c_int),
        ("components", c_int),
        ("space", c_int),
        ("component_info", c_void_p),
        ("quantization", _Pointers),
        ("huffman", _Pointers * 2),
        _ARITHMETIC,
        ("scans", c_int),
        ("script", c_void_p),
        ("raw", c_int),
        ("arithmetic_coding", c_int),
        ("optimize_coding", c_int),
        ("ccir601", c_int),
        ("smoothing", c_int),
        ("dct", c_int),
        ("restart_interval", c_uint),
        ("restart_in_rows", c_int),
        ("write_jfif", c_int),
        ("jfif", c_ubyte * 3),
        ("density", c_ushort * 2),
        ("write_adobe", c_int),
        ("next_scanline", c_uint),
        ("progressive", c_int),
        ("factors", c_int * 2),
        ("rows", c_uint),
        ("in_scan", c_int),
        ("scanned", _Pointers),
        *_SCAN,
        ("modules", c_void_p * 9),
        ("script_space", c_void_p),
        ("script_length", c_int),
    ]


def rewritten(library: str, data: bytes, mcus: int) -> bytes:
    """The same coefficients, baseline, with optimal Huffman tables and a restart every so many MCUs; no metadata.

    Whatever is wrong with the file ends the process with a message on its standard error.
    """
    jpeg = ctypes.CDLL(library)
    jpeg.jpeg_read_coefficients.restype = jpeg.jpeg_std_error.restype = c_void_p
    errors, source, destination = _Errors(), _Source(), _Destination()
    out, length = POINTER(c_ubyte)(), c_ulong()
    source.err = destination.err = jpeg.jpeg_std_error(byref(errors))
    jpeg.jpeg_CreateDecompress(byref(source), VERSION, ctypes.c_size_t(ctypes.sizeof(source)))
    jpeg.jpeg_CreateCompress(byref(destination), VERSION, ctypes.c_size_t(ctypes.sizeof(destination)))
    jpeg.jpeg_mem_src(byref(source), c_char_p(data), c_ulong(len(data)))
    jpeg.jpeg_read_header(byref(source), 1)
    coefficients = c_void_p(jpeg.jpeg_read_coefficients(byref(source)))
    jpeg.jpeg_copy_critical_parameters(byref(source), byref(destination))
    destination.optimize_coding, destination.restart_interval, destination.restart_in_rows = 1, mcus, 0
    jpeg.jpeg_mem_dest(byref(destination), byref(out), byref(length))
    jpeg.jpeg_write_coefficients(byref(destination), coefficients)
    jpeg.jpeg_finish_compress(byref(destination))
    jpeg.jpeg_finish_decompress(byref(source))
    return ctypes.string_at(out, length.value)


if __name__ == "__main__":
    sys.stdout.buffer.write(rewritten(sys.argv[1], sys.stdin.buffer.read(), int(sys.argv[2])))

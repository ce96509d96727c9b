"""Writes a GGUF file anew with all matrices in one format: make_gguf.py IN.gguf OUT.gguf f32|bf16|q8_0.

So both sides of the comparison hold the same weights: IN's, dequantised, as `hone model import` reads them too.
"""
import sys

import gguf
from gguf.quants import dequantize, quantize

KINDS = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}


def main():
    source, out, name = sys.argv[1:]
    kind, file_type = KINDS[name]
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type"):
            continue
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], sub_type=sub_type)
    writer.add_file_type(file_type)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).reshape(list(reversed(tensor.shape.tolist())))
        is_matrix = values.ndim == 2
        wanted = kind if is_matrix else gguf.GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, quantize(values.astype("float32"), wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()

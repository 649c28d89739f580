"""Export a checkpoint for OpenVINO by optimum-intel: `MODEL PRECISION OUTPUT`.

int8 and int4 are the weight compressions that optimum-intel recommends by default: symmetric int8
per output, and int4 in groups of 128 with 8-bit embeddings and head.
"""

import sys

from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

CONFIGS = {
    "bfloat16": None,
    "int8": OVWeightQuantizationConfig(bits=8, sym=True),
    "int4": OVWeightQuantizationConfig(bits=4, sym=True, group_size=64, ratio=1.0),
}

if __name__ == "__main__":
    source, precision, output = sys.argv[1:]
    model = OVModelForCausalLM.from_pretrained(
        source,
        export=True,
        compile=False,
        load_in_8bit=False,
        quantization_config=CONFIGS[precision],
    )
    model.save_pretrained(output)

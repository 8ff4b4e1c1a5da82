"""Writes the random-weight models of the CPU speed benchmark into build/peers/models; skips what is there.

    python make_models.py mlx [--shape 1b|8b] [--bits 2 3 4 8 mixed]
    python make_models.py gguf [--shape 1b|8b] [--types Q4_0 Q4_K_M Q3_K_M Q2_K Q8_0]
    python make_models.py openvino [--shape 1b] [--kinds sym-g128 asym-g64]

mlx needs numpy only; gguf needs gguf and llama-cpp-python; openvino needs openvino, nncf and optimum-intel.
"""

import argparse

from shapes import MODELS, SHAPES


def make_mlx(shape, arguments) -> None:
    """MLX checkpoints of uniform widths, and a mixed one."""
    import mlx_models

    for bits in arguments.bits:
        mlx_models.write_mlx(MODELS, shape, None if bits == "mixed" else int(bits))


def make_gguf(shape, arguments) -> None:
    """GGUF files by llama.cpp's own quantizer."""
    import gguf_models

    gguf_models.write_gguf(MODELS, shape, arguments.types, arguments.threads)


def make_openvino(shape, arguments) -> None:
    """OpenVINO models by NNCF's weight compression."""
    import openvino_models

    openvino_models.write_openvino(MODELS, shape, arguments.kinds)


def main() -> None:
    """Reads the command line and writes one format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=["mlx", "gguf", "openvino"])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="1b")
    parser.add_argument("--bits", nargs="+", default=["4", "2", "3", "8", "mixed"], help="mlx: 2 3 4 5 6 8 or mixed")
    parser.add_argument("--types", nargs="+", default=["Q4_0", "Q4_K_M", "Q3_K_M", "Q2_K", "Q8_0"], help="gguf")
    parser.add_argument("--kinds", nargs="+", default=["sym-g128", "asym-g64"], help="openvino")
    parser.add_argument("--threads", type=int, default=2, help="of llama.cpp's quantizer")
    arguments = parser.parse_args()
    MODELS.mkdir(parents=True, exist_ok=True)
    makers = {"mlx": make_mlx, "gguf": make_gguf, "openvino": make_openvino}
    makers[arguments.format](SHAPES[arguments.shape], arguments)


if __name__ == "__main__":
    main()

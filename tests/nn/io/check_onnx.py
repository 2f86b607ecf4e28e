# SPDX-License-Identifier: Apache-2.0
"""Checks ONNX files with ONNX's own checker and shape inference: check_onnx.py FILE..."""
import sys

import onnx

for path in sys.argv[1:]:
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    inferred = {v.name: v for v in onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output}
    for output in model.graph.output:
        assert inferred[output.name].type == output.type, "%s: %s is not of the stated shape" % (path, output.name)

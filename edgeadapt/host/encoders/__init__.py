"""Any network as one function from inputs to a feature: a torch module, an ONNX file, a network by
name.
"""

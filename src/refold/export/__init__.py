"""Between refold and other formats: operators of ONNX run as compiled recurrences."""

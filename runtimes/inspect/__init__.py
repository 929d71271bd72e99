"""What a model file or folder is, what is wrong with it and which engine takes it, from headers alone: no engine, no weights.

`edgeport.runtimes.inspect.open.inspect_path` reads files of any origin; one module here per kind of file.
"""

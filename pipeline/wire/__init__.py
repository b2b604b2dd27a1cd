"""Sans-IO codecs of the programs the pipeline talks to: bytes in, values out."""

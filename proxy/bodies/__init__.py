"""Sans-io decoders that turn the bytes of a message into texts, and put changed spans back where they came from."""

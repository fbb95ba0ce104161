"""The Sparrow method: lossless speculative decoding for video LLMs. Knows nothing of Ray."""

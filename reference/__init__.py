"""What a pod runs: the service whose images get lost, and its published fix, in one sitting.

Read in this order: `status` (what is stored), `store` (where), `upload_manager` (who uploads),
`accumulator` (who takes messages in and absorbs them), `targets` (the two put together as pods).
Beside the line: `runtime` (time and threads), `gemini` (the client), `memory` (where messages end up).
`durable`, which opens with a reading order of its own, is what to run instead.
`local` and `shared` are specimens: they are kept as the specification has them, races included.
"""

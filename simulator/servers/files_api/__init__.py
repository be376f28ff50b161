"""A local Gemini Files API: upload, get, delete and list, as far as a pod needs them.

    store.py       records, states, expiry and whose a file is: the rules that both forms share
    inprocess.py   InProcessFiles: stands in for google-genai's `client.files`, without HTTP
    api.py         FilesApi: over HTTP, for the unmodified google-genai client, with failures as planned
    __main__.py    FilesApi as a process: `python -m podrace.simulator.servers.files_api`

One contract suite runs against both forms: tests/simulator/test_files_store.py. Sources: the Files reference
(https://ai.google.dev/api/files), and what google-genai 3.4 sends and reads.
"""

from podrace.simulator.servers.files_api.api import FilesApi
from podrace.simulator.servers.files_api.inprocess import InProcessFiles

__all__ = ["FilesApi", "InProcessFiles"]

"""Our users. `locust -f loadtests/locustfile.py` alone starts its own server and the web page; see --help."""

from __future__ import annotations

import google.genai  # noqa: F401 - takes a second, and a worker says that it is ready before its init event

from podrace.loadtests import RedisUser  # noqa: F401 - this line makes a locustfile ours
from podrace.loadtests.users import Absorber, StoreReader, StoreWriter, UploadLife  # noqa: F401

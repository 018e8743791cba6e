"""Everybody who keeps photographs, or what was made of them: the order in which they erase.

A new kind of file in a workspace needs an owner here; a test walks a workspace with a file of every
kind and demands one owner for each.
"""

from __future__ import annotations

from annotator.candidates.index import CANDIDATES_INDEX
from annotator.candidates.originals import REFERENCE_PHOTOGRAPHS
from annotator.log.access import TOKENS
from annotator.log.place import DECISIONS, OWNERSHIP
from hqvox.exchange.workspace import IMPORT_LINKS
from hqvox.release.takedown import RELEASES
from hqvox.runner.build import RUN_LOGS, RUN_RECORDS
from hqvox.runner.crawl.hosts import HOST_FILES
from hqvox.runner.crawl.shard import ATTEMPTS_FILES
from hqvox.runner.crawl.spool import SPOOLS
from hqvox.runner.erasure import STAGES
from hqvox.speech.build import AUDIO_LISTING, AUDIO_SOURCES
from hqvox.speech.pack import SPEECH
from hqvox.trainer.packing import PACKS
from hqvox.workspace.covered import Owner
from hqvox.workspace.layout import FAILURES, IDENTITIES_TABLE, SETTINGS
from hqvox.workspace.outputs import OUTPUTS, REPORTS
from hqvox.workspace.takedowns import TAKEDOWNS_FILE
from pipelines.discover.budget import QUOTAS
from pipelines.discover.paged import ANSWERS
from pipelines.discover.urls_index import URLS_INDEX

OWNERS: tuple[Owner, ...] = (
    # These ask the stages' tables which photographs and addresses are covered.
    ATTEMPTS_FILES,
    ANSWERS,
    SPOOLS,
    HOST_FILES,
    FAILURES,
    SPEECH,
    AUDIO_LISTING,
    RUN_LOGS,
    REPORTS,
    RELEASES,
    PACKS,
    CANDIDATES_INDEX,
    REFERENCE_PHOTOGRAPHS,
    DECISIONS,
    IMPORT_LINKS,
    # The tables, and last who is in the workspace: a purge that was killed finds here what to do.
    STAGES,
    URLS_INDEX,  # renewing a table's fingerprint makes it again
    IDENTITIES_TABLE,
    # These hold nothing about photographs or people.
    SETTINGS,
    TAKEDOWNS_FILE,
    OUTPUTS,
    AUDIO_SOURCES,
    QUOTAS,
    RUN_RECORDS,
    OWNERSHIP,
    TOKENS,
)

"""Support-ticket triage: what a ticket is about, how urgent it is, and who should take it."""

from triage.prompt import build_payload
from triage.service import triage

__all__ = ["build_payload", "triage"]

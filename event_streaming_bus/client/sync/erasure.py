# Made by `python -m event_streaming_bus.client.twin` of client/erasure.py; change that one, and make this one anew.
"""Erasing subjects on a server."""

from typing import NoReturn

import msgspec

from event_streaming_bus.client.answers import certificate_of
from event_streaming_bus.client.client_errors import not_remote
from event_streaming_bus.client.requests import given, path_of
from event_streaming_bus.client.sync.remote_service import Data, RemoteService
from event_streaming_bus.erasure.certificates import ErasureCertificate
from event_streaming_bus.erasure.service import Problem, SubjectReport, Verification
from event_streaming_bus.models import DEFAULT_TENANT

_COUNTING_S = 600.0


class ErasureService(RemoteService):
    """Erases subjects, and shows the certificates of that."""

    def erase_subject(
        self,
        subject: str,
        tenant_id: str = DEFAULT_TENANT,
        reason: str = "",
        user_id: str | None = None,
        *,
        count_events: bool = False,
    ) -> ErasureCertificate:
        """Make all personal data of the subject unreadable for good, and write the certificate of that into the audit. Raises
        ``SubjectNotKnownError``."""
        body = {"subject": subject, "reason": reason, "count_events": count_events, **given(user_id=user_id)}
        return certificate_of(self._asked(Data, "POST", path_of("erasures"), tenant_id, body, is_keyed=True, more_s=_COUNTING_S))

    def list_certificates(self, tenant_id: str = DEFAULT_TENANT) -> list[ErasureCertificate]:
        """The tenant's certificates, oldest first, as the audit has them."""
        return [certificate_of(each) for each in self._listed("erasures", "erasures", tenant_id)]

    def get_certificate(self, certificate_id: str, tenant_id: str = DEFAULT_TENANT) -> ErasureCertificate:
        """One certificate. Raises ``CertificateNotFoundError``."""
        return certificate_of(self._asked(Data, "GET", path_of("erasures", certificate_id), tenant_id))

    def verify_certificates(self, tenant_id: str = DEFAULT_TENANT) -> Verification:
        """Whether the tenant's certificates are all there, as they were made, and true: no key that they speak of is there."""
        told = self._asked(Data, "GET", path_of("erasures", "verify"), tenant_id, more_s=_COUNTING_S)
        return Verification(told["certificates"], msgspec.convert(told["problems"], list[Problem]))

    def subject_report(self, subject: str, tenant_id: str = DEFAULT_TENANT, *, count_events: bool = False) -> SubjectReport:
        """What there is of a subject: its key, its erasures and, if they are to be counted, its events."""
        body = {"subject": subject, "count_events": count_events}
        path = path_of("erasures", "subject-report")
        return self._asked(SubjectReport, "POST", path, tenant_id, body, is_repeatable=True, more_s=_COUNTING_S)

    # --- the same, blocking -------------------------------------------------------------------------------------------

    def erase(
        self,
        subject: str,
        tenant_id: str = DEFAULT_TENANT,
        reason: str = "",
        user_id: str | None = None,
        *,
        count_events: bool = False,
    ) -> ErasureCertificate:
        """As ``erase_subject``, blocking."""
        return self._connection.now(self.erase_subject(subject, tenant_id, reason, user_id, count_events=count_events))

    def certificates(self, tenant_id: str = DEFAULT_TENANT) -> list[ErasureCertificate]:
        """As ``list_certificates``, blocking."""
        return self._connection.now(self.list_certificates(tenant_id))

    def verify(self, tenant_id: str = DEFAULT_TENANT) -> Verification:
        """As ``verify_certificates``, blocking."""
        return self._connection.now(self.verify_certificates(tenant_id))

    def report(self, subject: str, tenant_id: str = DEFAULT_TENANT, *, count_events: bool = False) -> SubjectReport:
        """As ``subject_report``, blocking."""
        return self._connection.now(self.subject_report(subject, tenant_id, count_events=count_events))

    def reapply(self, tenant_id: str = DEFAULT_TENANT) -> NoReturn:
        """Raises ``NotRemoteError``."""
        raise not_remote("doing erasures again", "run `esb erasures reapply` where the data folder is")

"""A broker with TLS, users and ACLs, and the certificates it takes."""

import subprocess
from pathlib import Path
from typing import Final

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from kafka_broker import Broker, url_of

PASSWORDS: Final = {
    "scram-256": "first-secret/+&=%",
    "scram-512": "second-secret",
    "plain": "third-secret",
    "poor": "fourth-secret",
}
"""The users. The first has a password that must be quoted in a URL; ``poor`` has no right but those that a test gives it."""

_MECHANISMS: Final = {
    "scram-256": ("SASL_SSL", "SCRAM-SHA-256"),
    "scram-512": ("SASL_SSL", "SCRAM-SHA-512"),
    "plain": ("SASL_PLAINTEXT", "PLAIN"),
    "poor": ("SASL_PLAINTEXT", "PLAIN"),
}
_LOGIN: Final = "org.apache.kafka.common.security"


class Secured:
    """A broker with listeners for SASL_SSL (SCRAM), SASL_PLAINTEXT (PLAIN) and SSL (a client's certificate). ``folder`` has
    ``ca.pem``, which signed its certificate and the client's (``client.pem``, ``client.key``), and ``other-ca.pem``, which signed
    nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("ca", "other-ca"):
            self._certificate(name)
        for name in ("broker", "client"):
            self._certificate(name, signed=True)
        whole = [(folder / name).read_text() for name in ("broker.key", "broker.pem", "ca.pem")]
        (folder / "broker-all.pem").write_text("".join(whole))
        users = " ".join(f'user_{name}="{PASSWORDS[name]}"' for name in ("plain", "poor"))
        scram = f"{_LOGIN}.scram.ScramLoginModule required;"
        self.broker = Broker(
            folder,
            listeners=("SASL_SSL", "SASL_PLAINTEXT", "SSL"),
            settings={
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(folder / "broker-all.pem"),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(folder / "ca.pem"),
                "listener.name.ssl.ssl.client.auth": "required",
                "listener.name.sasl_ssl.sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512",
                "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config": scram,
                "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": scram,
                "listener.name.sasl_plaintext.sasl.enabled.mechanisms": "PLAIN",
                "listener.name.sasl_plaintext.plain.sasl.jaas.config": f"{_LOGIN}.plain.PlainLoginModule required {users};",
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS;User:CN=client",  # the tests' own listener, and the broker itself
            },
            format_options=[
                option
                for name, mechanism in (("scram-256", "SCRAM-SHA-256"), ("scram-512", "SCRAM-SHA-512"))
                for option in ("--add-scram", f"{mechanism}=[name={name},password={PASSWORDS[name]}]")
            ],
        )
        self.admin = AdminClient({"bootstrap.servers": self.broker.address, "log_level": 2})

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=self.folder)

    def _certificate(self, name: str, *, signed: bool = False) -> None:
        """``NAME.key`` and ``NAME.pem``: of an authority, or signed by the authority ``ca``."""
        self._openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", f"{name}.key")
        subject = ["-subj", f"/CN={name}", "-key", f"{name}.key"]
        if not signed:
            self._openssl("req", "-x509", *subject, "-days", "2", "-out", f"{name}.pem")
            return
        self._openssl("req", "-new", *subject, "-out", f"{name}.csr")
        (self.folder / f"{name}.ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext"]
        self._openssl("x509", "-req", "-in", f"{name}.csr", *signing, "-out", f"{name}.pem")

    def url(self, user: str, data: Path, **options: str) -> str:
        """The URL of a log of its own as this user; ``options`` instead of what would be right."""
        protocol, mechanism = _MECHANISMS[user]
        right = {
            "security_protocol": protocol,
            "sasl_mechanism": mechanism,
            "sasl_username": user,
            "sasl_password": PASSWORDS[user],
            **({"ssl_ca_location": str(self.folder / "ca.pem")} if protocol == "SASL_SSL" else {}),
        }
        return url_of(self.broker.listeners[protocol], data, **{**right, **options})

    def allow(self, user: str, prefix: str, *rights: tuple[ResourceType, AclOperation]) -> None:
        """Give the user rights of what begins with the prefix, or of the cluster."""
        self._wait(self.admin.create_acls([self._acl(user, prefix, *right) for right in rights]))

    def forbid(self, user: str, prefix: str, *rights: tuple[ResourceType, AclOperation]) -> None:
        """Take rights away that were given."""
        filters = [
            AclBindingFilter(
                acl.restype, acl.name, acl.resource_pattern_type, acl.principal, None, acl.operation, AclPermissionType.ANY
            )
            for acl in (self._acl(user, prefix, *right) for right in rights)
        ]
        self._wait(self.admin.delete_acls(filters))

    def _acl(self, user: str, prefix: str, resource: ResourceType, operation: AclOperation) -> AclBinding:
        of_cluster = resource == ResourceType.BROKER
        pattern = ResourcePatternType.LITERAL if of_cluster else ResourcePatternType.PREFIXED
        name = "kafka-cluster" if of_cluster else prefix
        return AclBinding(resource, name, pattern, f"User:{user}", "*", operation, AclPermissionType.ALLOW)

    def _wait(self, futures: dict) -> None:
        for future in futures.values():
            future.result(30)


NEEDED: Final = (
    (ResourceType.TOPIC, AclOperation.CREATE),
    (ResourceType.TOPIC, AclOperation.DELETE),
    (ResourceType.TOPIC, AclOperation.DESCRIBE),
    (ResourceType.TOPIC, AclOperation.READ),
    (ResourceType.TOPIC, AclOperation.WRITE),
    (ResourceType.TRANSACTIONAL_ID, AclOperation.DESCRIBE),
    (ResourceType.TRANSACTIONAL_ID, AclOperation.WRITE),
    (ResourceType.GROUP, AclOperation.READ),
    (ResourceType.GROUP, AclOperation.DESCRIBE),
    (ResourceType.GROUP, AclOperation.DELETE),
    (ResourceType.BROKER, AclOperation.DESCRIBE),
    (ResourceType.BROKER, AclOperation.IDEMPOTENT_WRITE),
)
"""The rights that docs/kafka.md says the bus needs."""

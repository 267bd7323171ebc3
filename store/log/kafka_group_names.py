"""The consumer groups of a Kafka cluster, as far as they carry the prefix of the log."""

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from event_streaming_bus.store.log.kafka_errors import bus_error, error_of
from event_streaming_bus.store.log.kafka_offsets import REQUEST_S
from event_streaming_bus.store.log.kafka_settings import parse_url


def groups_on_kafka(url: str) -> list[str]:
    """The names of the groups, without the prefix, in order: those of other consumers of the cluster too, where there is none."""
    settings = parse_url(url, "unused")
    admin = AdminClient(settings.options())
    try:
        listed = admin.list_consumer_groups(request_timeout=REQUEST_S).result()
    except KafkaException as error:
        raise bus_error(error_of(error), settings.brokers, "listing the groups") from error
    names = (group.group_id for group in listed.valid or ())
    return sorted(name.removeprefix(settings.prefix) for name in names if name.startswith(settings.prefix))

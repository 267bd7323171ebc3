import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.Scanner;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** What Java's own clients make of topics: {@code Client read BROKERS TOPIC COUNT} and {@code Client write BROKERS TOPIC}. */
public final class Client {
    private static final Duration POLL = Duration.ofMillis(200);
    private static final long PATIENCE_MS = 30_000;

    public static void main(String[] arguments) throws Exception {
        if (arguments[0].equals("read")) {
            read(arguments[1], arguments[2], Integer.parseInt(arguments[3]));
        } else {
            write(arguments[1], arguments[2]);
        }
    }

    /** Prints records, one a line: partition, offset, key, value, and each header as name=value; bytes in base64, "-" for null. */
    private static void read(String brokers, String topic, int count) {
        Map<String, Object> settings =
                Map.of("bootstrap.servers", brokers, "isolation.level", "read_committed", "auto.offset.reset", "earliest");
        try (var consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            List<TopicPartition> partitions = new ArrayList<>();
            consumer.partitionsFor(topic).forEach(info -> partitions.add(new TopicPartition(topic, info.partition())));
            consumer.assign(partitions);
            long deadline = System.currentTimeMillis() + PATIENCE_MS;
            for (int seen = 0; seen < count && System.currentTimeMillis() < deadline; ) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(POLL)) {
                    seen++;
                    StringBuilder line = new StringBuilder();
                    line.append(record.partition()).append('\t').append(record.offset());
                    line.append('\t').append(text(record.key())).append('\t').append(text(record.value()));
                    for (Header header : record.headers()) {
                        line.append('\t').append(header.key()).append('=').append(text(header.value()));
                    }
                    System.out.println(line);
                }
            }
        }
    }

    /** Writes a record for each key that a line of standard input has, and prints the partitions where the partitioner put them. */
    private static void write(String brokers, String topic) throws Exception {
        Map<String, Object> settings = Map.of("bootstrap.servers", brokers, "linger.ms", "5");
        try (var producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
                var lines = new Scanner(System.in, StandardCharsets.UTF_8)) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            while (lines.hasNextLine()) {
                String key = lines.nextLine();
                sent.add(producer.send(new ProducerRecord<>(topic, key, "{\"key\":true}")));
            }
            for (Future<RecordMetadata> each : sent) {
                System.out.println(each.get().partition());
            }
        }
    }

    private static String text(byte[] bytes) {
        return bytes == null ? "-" : Base64.getEncoder().encodeToString(bytes);
    }
}

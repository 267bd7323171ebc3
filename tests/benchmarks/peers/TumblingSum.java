import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.EmitStrategy;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.processor.TimestampExtractor;
import org.apache.kafka.streams.state.WindowStore;

/**
 * Kafka -> tumbling sums of 10 s by key, final results only -> Kafka, exactly once, with Kafka Streams.
 *
 * <p>Arguments: brokers, source topic, target topic, application id, state folder, "rocksdb" or "memory". It prints RUNNING once it
 * reads, and ends when its standard input does. Payloads are {"k":"...","total":...,"at":...}; they are read by hand, which is
 * faster than with any JSON library, and so in favour of this peer. The topics' keys are those of the sums, so nothing is shuffled.
 */
public final class TumblingSum {
    private static final byte[] TOTAL = "\"total\":".getBytes(StandardCharsets.US_ASCII);
    private static final byte[] AT = "\"at\":".getBytes(StandardCharsets.US_ASCII);

    private TumblingSum() {}

    /** The integer behind a name. */
    private static long field(byte[] json, byte[] name) {
        for (int i = 0; i + name.length < json.length; i++) {
            int n = 0;
            while (n < name.length && json[i + n] == name[n]) {
                n++;
            }
            if (n == name.length) {
                long value = 0;
                for (int j = i + n; j < json.length && json[j] >= '0' && json[j] <= '9'; j++) {
                    value = value * 10 + json[j] - '0';
                }
                return value;
            }
        }
        throw new IllegalArgumentException("a payload lacks " + new String(name, StandardCharsets.US_ASCII));
    }

    /** The time of an event is in its payload: that of the record is when it was appended. */
    public static final class PayloadTime implements TimestampExtractor {
        @Override
        public long extract(ConsumerRecord<Object, Object> record, long partitionTime) {
            return field((byte[]) record.value(), AT);
        }
    }

    public static void main(String[] arguments) throws Exception {
        Properties settings = new Properties();
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, arguments[3]);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, arguments[4]);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.DEFAULT_TIMESTAMP_EXTRACTOR_CLASS_CONFIG, PayloadTime.class);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 1000); // as often as a flow takes a snapshot
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "lz4");
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 5000);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG), 8 << 20);
        // Results leave as soon as their windows close, not once a second: the last ones would wait for another event for ever.
        settings.put(StreamsConfig.InternalConfig.EMIT_INTERVAL_MS_KSTREAMS_WINDOWED_AGGREGATION, 0L);
        if (arguments[5].equals("memory")) {
            settings.put(StreamsConfig.DSL_STORE_SUPPLIERS_CLASS_CONFIG,
                    org.apache.kafka.streams.state.BuiltInDslStoreSuppliers.InMemoryDslStoreSuppliers.class);
        }
        Serde<String> text = Serdes.String();
        Serde<byte[]> bytes = Serdes.ByteArray();
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(arguments[1], Consumed.with(text, bytes))
                .groupByKey(Grouped.with(text, bytes))
                .windowedBy(TimeWindows.ofSizeAndGrace(Duration.ofSeconds(10), Duration.ofSeconds(1)))
                .emitStrategy(EmitStrategy.onWindowClose())
                // The state in memory forgets windows as soon as it may, so that it keeps some that have yet to be told.
                .aggregate(() -> 0L, (key, value, sum) -> sum + field(value, TOTAL),
                        Materialized.<String, Long, WindowStore<Bytes, byte[]>>with(text, Serdes.Long())
                                .withRetention(Duration.ofMinutes(1)))
                .toStream()
                .map((window, sum) -> KeyValue.pair(window.key(),
                        ("{\"k\":\"" + window.key() + "\",\"start\":" + window.window().start() + ",\"sum_total\":" + sum + "}")
                                .getBytes(StandardCharsets.UTF_8)))
                .to(arguments[2], Produced.with(text, bytes));
        KafkaStreams streams = new KafkaStreams(builder.build(), settings);
        CountDownLatch running = new CountDownLatch(1);
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.RUNNING) {
                running.countDown();
            }
        });
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
            return null;
        });
        streams.start();
        running.await();
        System.out.println("RUNNING");
        System.out.flush();
        while (System.in.read() >= 0) {
            // until whoever started this closes it
        }
        streams.close(Duration.ofSeconds(20));
    }
}

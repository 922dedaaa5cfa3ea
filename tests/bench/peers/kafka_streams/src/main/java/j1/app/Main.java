package j1.app;

import j1.Decided;
import j1.ReserveStock;
import j1.StockRow;
import java.util.Map;
import java.util.Properties;
import org.apache.avro.specific.SpecificRecordBase;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;

/**
 * The application, told everything by the environment (J1_...), stopped by SIGTERM. What differs from Kafka Streams' defaults is what was
 * faster when measured: no store cache (uniform keys and 100 ms commits make it a cost), larger producer batches, larger memtables.
 */
public final class Main {
    private Main() {}

    public static void main(String[] arguments) {
        KafkaStreams streams = new KafkaStreams(topology(), settings());
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(3);
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
    }

    private static Properties settings() {
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, told("APP"));
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, told("BOOTSTRAP"));
        settings.put(StreamsConfig.STATE_DIR_CONFIG, told("STATE"));
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 100);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 0);
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        settings.put(StreamsConfig.ROCKSDB_CONFIG_SETTER_CLASS_CONFIG, Rocks.class);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 131_072);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        String instance = System.getenv("J1_INSTANCE");
        if (instance != null) {
            settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.GROUP_INSTANCE_ID_CONFIG), instance);
        }
        return settings;
    }

    private static Topology topology() {
        long onHand = Long.parseLong(told("ON_HAND"));
        AvroSerde<ReserveStock> commands = new AvroSerde<>(ReserveStock.class, ReserveStock.getClassSchema(), 1);
        Topology topology = new Topology();
        topology.addSource("commands", new StringDeserializer(), commands, told("COMMANDS"));
        topology.addProcessor("reserve", () -> new Reserve(onHand), "commands");
        topology.addStateStore(store(Reserve.STOCK, new AvroSerde<>(StockRow.class, StockRow.getClassSchema(), 2)), "reserve");
        topology.addStateStore(store(Reserve.RESERVATION, decided()), "reserve");
        topology.addSink("out", told("OUT"), new StringSerializer(), decided(), "reserve");
        return topology;
    }

    private static <T extends SpecificRecordBase> StoreBuilder<KeyValueStore<String, T>> store(String name, AvroSerde<T> serde) {
        return Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(name), Serdes.String(), serde)
            .withLoggingEnabled(Map.of())
            .withCachingDisabled();
    }

    private static AvroSerde<Decided> decided() {
        return new AvroSerde<>(Decided.class, Decided.getClassSchema(), 3);
    }

    private static String told(String name) {
        String value = System.getenv("J1_" + name);
        if (value == null) {
            throw new IllegalArgumentException("J1_" + name + " is not set");
        }
        return value;
    }
}

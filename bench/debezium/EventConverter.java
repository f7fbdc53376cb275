import java.io.File;
import java.nio.ByteBuffer;
import java.util.Date;
import java.util.HashMap;
import java.util.Map;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericFixed;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.data.SchemaAndValue;
import org.apache.kafka.connect.data.SchemaBuilder;
import org.apache.kafka.connect.data.Struct;
import org.apache.kafka.connect.data.Timestamp;
import org.apache.kafka.connect.storage.Converter;

/** Our records for Kafka Connect: single-object encoding to a struct of the columns of the bench's table. */
public class EventConverter implements Converter {
    private static final String[] TEXTS = {"tenant", "kind", "workflow", "environment", "mode", "agent"};
    private static final String[] IDS = {"event_id", "task_id", "effect_id", "producer_id"};
    private static final Schema ROW = row();

    private final Map<String, GenericDatumReader<GenericRecord>> bodies = new HashMap<>();
    private GenericDatumReader<GenericRecord> envelopes;
    private File schemas;
    private BinaryDecoder decoder;

    private static Schema row() {
        SchemaBuilder builder = SchemaBuilder.struct().name("audit");
        for (String name : TEXTS) builder.field(name, Schema.STRING_SCHEMA);
        for (String name : IDS) builder.field(name, Schema.OPTIONAL_STRING_SCHEMA);
        builder.field("seq", Schema.INT64_SCHEMA).field("occurred_at", Timestamp.SCHEMA);
        return builder.field("body", Schema.STRING_SCHEMA).field("value", Schema.BYTES_SCHEMA).build();
    }

    @Override
    public void configure(Map<String, ?> configs, boolean isKey) {
        schemas = new File(configs.get("schemas").toString());
        envelopes = newest("event");
    }

    private GenericDatumReader<GenericRecord> newest(String subject) {
        File[] versions = new File(schemas, subject).listFiles((folder, name) -> name.endsWith(".avsc"));
        File last = versions[0];
        for (File version : versions) if (number(version) > number(last)) last = version;
        try {
            return new GenericDatumReader<>(new org.apache.avro.Schema.Parser().parse(last));
        } catch (java.io.IOException error) {
            throw new IllegalStateException(error);
        }
    }

    private static int number(File version) {
        return Integer.parseInt(version.getName().replace(".avsc", ""));
    }

    private GenericRecord read(GenericDatumReader<GenericRecord> reader, byte[] content, int start, int length) {
        try {
            decoder = DecoderFactory.get().binaryDecoder(content, start, length, decoder);
            return reader.read(null, decoder);
        } catch (java.io.IOException error) {
            throw new IllegalStateException(error);
        }
    }

    @Override
    public SchemaAndValue toConnectData(String topic, byte[] value) {
        GenericRecord event = read(envelopes, value, 10, value.length - 10);
        ByteBuffer body = (ByteBuffer) event.get("body");
        byte[] content = new byte[body.remaining()];
        body.get(content);
        Struct row = new Struct(ROW);
        for (String name : TEXTS) row.put(name, event.get(name).toString());
        for (String name : IDS) row.put(name, hex((GenericFixed) event.get(name)));
        GenericRecord decoded = read(
            bodies.computeIfAbsent(event.get("kind").toString(), this::newest), content, 0, content.length);
        row.put("seq", event.get("seq")).put("occurred_at", new Date((Long) event.get("occurred_at") / 1000));
        return new SchemaAndValue(ROW, row.put("body", GenericData.get().toString(decoded)).put("value", value));
    }

    private static String hex(GenericFixed id) {
        return id == null ? null : java.util.HexFormat.of().formatHex(id.bytes());
    }

    @Override
    public byte[] fromConnectData(String topic, Schema schema, Object value) {
        throw new UnsupportedOperationException("a sink only reads");
    }
}

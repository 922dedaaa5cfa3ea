package j1.app;

import j1.Decided;
import j1.ReserveStock;
import j1.StockRow;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;

/** J1's business: a known command gets its first answer again, a new one reserves what there is. The answer is also the reservation's row. */
final class Reserve implements Processor<String, ReserveStock, String, Decided> {
    static final String STOCK = "stock";
    static final String RESERVATION = "reservation";

    private final long onHand;
    private ProcessorContext<String, Decided> context;
    private KeyValueStore<String, StockRow> stock;
    private KeyValueStore<String, Decided> reservations;

    Reserve(long onHand) {
        this.onHand = onHand;
    }

    @Override
    public void init(ProcessorContext<String, Decided> context) {
        this.context = context;
        stock = context.getStateStore(STOCK);
        reservations = context.getStateStore(RESERVATION);
    }

    @Override
    public void process(Record<String, ReserveStock> record) {
        ReserveStock command = record.value();
        Decided decided = reservations.get(command.getCommandId());
        if (decided == null) {
            decided = decide(command);
            reservations.put(command.getCommandId(), decided);
        }
        context.forward(record.withKey(decided.getOrderId()).withValue(decided));
    }

    private Decided decide(ReserveStock command) {
        String key = command.getSku() + '|' + command.getLocationId();
        StockRow row = stock.get(key);
        if (row == null) {
            row = new StockRow(onHand, 0L, 0L);
        }
        boolean reserved = row.getOnHand() - row.getReserved() >= command.getQuantity();
        if (reserved) {
            row.setReserved(row.getReserved() + command.getQuantity());
            row.setVersion(row.getVersion() + 1);
            stock.put(key, row);
        }
        return new Decided(
            command.getCommandId(),
            command.getOrderId(),
            command.getSku(),
            command.getLocationId(),
            command.getQuantity(),
            reserved,
            row.getOnHand() - row.getReserved(),
            row.getVersion(),
            context.currentSystemTimeMs() * 1000);
    }
}

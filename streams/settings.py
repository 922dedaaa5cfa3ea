"""What a worker can be told, from the environment (ORDERFLOW_...), and why it would refuse to start with it."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from orderflow.streams.domain.contract import Settings as Rules
from orderflow.streams.domain.sagas import Patience
from orderflow.streams.parking import PARKED_MAX, PARKED_PERCENT_MAX
from orderflow.streams.watchdog import BOUND_S

WINDOWS = (
    "payment_window_s",
    "wallet_window_s",
    "installment_window_s",
    "bank_transfer_window_s",
    "cod_window_s",
    "authorization_warning_s",
    "cancel_window_s",
    "shortage_window_s",
    "backorder_window_s",
    "refund_window_s",
    "complete_after_s",
)
"""What people wait for, and ORDERFLOW_CLOCK_SPEED shortens."""
GIVE_UP_SESSIONS_MIN = 4


class WorkerSettings(BaseSettings):
    """One worker process. Names end with their unit; every wait, size and count has a bound."""

    model_config = SettingsConfigDict(env_prefix="ORDERFLOW_", extra="ignore", frozen=True)

    bootstrap: str = "127.0.0.1:9092"
    """Kafka's bootstrap servers."""
    registry: str = "http://127.0.0.1:8081"
    """The schema registry's Confluent API; needed at set-up and for unknown schema ids only."""
    prefix: str = Field("orderflow", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """First part of every topic's name, so that several systems can share a cluster."""
    partitions: int = Field(4, ge=1, le=1024)
    """Partitions per key space, fixed for life."""
    group: str = Field("orderflow", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """Consumer group: the workers that share the work."""
    instance: str = Field("", pattern=r"^[A-Za-z0-9._-]{0,64}$")
    """This worker's name in the group; empty takes the one in the data directory."""
    data: Path = Path(".orderflow")
    """The worker's data directory: RocksDB, identity, cached schema ids."""
    worker_host: str = "127.0.0.1"
    """Address its web endpoint listens on: rows, health, metrics."""
    worker_port: int = Field(6066, ge=1, le=65535)
    """Where edges read this worker's rows."""
    worker_address: str = ""
    """The same as other machines reach it; empty means http://<host>:<port>."""
    membership: str = Field("static", pattern="^(static|dynamic)$")
    """static: a restart in place keeps its partitions; dynamic: for workers that come and go."""
    session_timeout_s: float = Field(10.0, ge=1, le=300)
    """How long the group waits for a silent worker before its partitions move; also the transaction timeout."""
    commit_interval_s: float = Field(0.1, gt=0, le=5)
    """A transaction is committed after this long at the latest."""
    commit_records: int = Field(10_000, ge=1)
    """A transaction is committed after this many records at the latest."""
    commit_idle_s: float = Field(0.005, ge=0.001, le=1)
    """A transaction that is this old is committed as soon as the log has nothing new."""
    batch_records: int = Field(2_000, ge=1, le=100_000)
    """At most this many records are decided between two polls."""
    state_memory_mb: int = Field(512, ge=64, le=1_048_576)
    """MiB for all its rows in memory: half for what is not on disk yet, an eighth for blocks of the disk, the rest for decoded rows."""
    parked_max: int = Field(PARKED_MAX, ge=0)
    """A partition is read no further when more records than this of a minute, and more than the percentage below, could not be processed."""
    parked_percent_max: float = Field(PARKED_PERCENT_MAX, ge=0, le=100)
    """See ORDERFLOW_PARKED_MAX; 100 sets everything aside and stops nothing."""
    supervise: bool = True
    """`orderflow worker` starts itself again, with backoff, when it ends in a way that a start can mend; false, or `--once`, where
    something else does."""
    watchdog_s: float = Field(BOUND_S, ge=1, le=3600)
    """A worker that makes no step for so long hangs, and ends with 11. The default is longer than what has a bound of its own may take
    together when the broker is away: a commit 30 s, its abort 25 s, a seek 10 s."""
    standby: bool = False
    """Also copy the rows of partitions that other workers own, so that a take-over reads only what came last."""
    locations: str = "main"
    """Known stock locations, separated by commas, until their key space exists."""
    give_up_s: int = Field(120, ge=5)
    """How long a saga waits for an answer inside the system before it asks the owner to release."""
    payment_window_s: int = Field(1800, ge=5, le=86_400)
    """How long a prepaid order waits for its authorization by card, whatever its buyer has to do for it; its stock is kept for as long."""
    wallet_window_s: int = Field(900, ge=5)
    """The same by wallet."""
    installment_window_s: int = Field(7200, ge=5)
    """The same in installments."""
    bank_transfer_window_s: int = Field(86_400, ge=5)
    """The same by bank transfer."""
    cod_window_s: int = Field(86_400, ge=5)
    """How long an order that is paid on delivery waits to be confirmed by people; its stock is kept for as long."""
    authorization_warning_s: int = Field(86_400, ge=1)
    """How long before its authorization ends an order that is not captured gets the hold PAYMENT_EXPIRING; half of a shorter one's time."""
    cancel_window_s: int = Field(3600, ge=1)
    """How long after placing it a customer may cancel an order."""
    shortage_window_s: int = Field(259_200, ge=5)
    """How long a customer may think about a shortage (partial policy `ask`); what there is stays reserved meanwhile."""
    backorder_window_s: int = Field(2_592_000, ge=5)
    """How long an order waits for units that are not there (partial policy `backorder`, `must_accept`); what there is stays reserved meanwhile."""
    refund_window_s: int = Field(15_552_000, ge=1)
    """How long after its latest capture people may still refund a payment: 180 days, as providers allow it."""
    complete_after_s: int = Field(604_800, ge=1)
    """How long after its delivery an order completes: seven days."""
    clock_speed: int = Field(1, ge=1, le=100_000)
    """Demos watch days pass: the windows above that people wait for (payment, cash on delivery, authorization, cancel, shortage, backorder, refund, completion) are so many times shorter."""
    saga_late_s: int = Field(30, ge=1, le=86_400)
    """A saga whose time is over for longer than this, while nothing happened, is listed and counted as stuck."""
    saga_unanswered_s: int = Field(300, ge=1, le=604_800)
    """So is one that has waited this long for an answer that has no end of its own: a payment provider's, a release's."""
    log_format: str = Field("console", pattern="^(console|json)$")
    """How log lines are written: for people or as JSON."""

    @property
    def address(self) -> str:
        return self.worker_address or f"http://{self.worker_host}:{self.worker_port}"

    @property
    def rules(self) -> Rules:
        locations = tuple(name.strip() for name in self.locations.split(",") if name.strip())
        windows = {name: max(1, getattr(self, name) // self.clock_speed) for name in WINDOWS}
        return Rules(locations=locations, give_up_s=self.give_up_s, **windows)

    @property
    def patience(self) -> Patience:
        return Patience(self.saga_late_s, self.saga_unanswered_s)

    def refusals(self) -> list[str]:
        """Every reason not to start, each naming its variable; empty when the worker may start."""
        found = []
        if not self.rules.locations:
            found.append("ORDERFLOW_LOCATIONS is empty: name at least one stock location")
        if self.give_up_s < GIVE_UP_SESSIONS_MIN * self.session_timeout_s:
            found.append(
                f"ORDERFLOW_GIVE_UP_S={self.give_up_s} is shorter than {GIVE_UP_SESSIONS_MIN} session timeouts "
                f"(ORDERFLOW_SESSION_TIMEOUT_S={self.session_timeout_s:g}): a saga would give up while its worker is being replaced"
            )
        return found

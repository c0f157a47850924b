"""Celery's configuration, from the settings in force: JSON only, late acknowledgement, one message at a time."""

from kombu import Queue

from etl_tasks.config import load_settings

_settings = load_settings()

broker_url = _settings.redis_url.get_secret_value()
result_backend = f"etl_tasks.adapters.chord_backend:ChordBackend+{_settings.result_url.get_secret_value()}"
broker_use_ssl = _settings.redis_tls(_settings.redis_url)
redis_backend_use_ssl = _settings.redis_tls(_settings.result_url)

# What this installation carries: `doctor` asks every worker on the same Redis for it. No secret may stand in it.
etl_installation = _settings.installation

# Only what is JSON is taken: a pickle message is code that somebody else wrote.
task_serializer = "json"
result_serializer = "json"
accept_content = ["json"]
result_accept_content = ["json"]

task_acks_late = True
task_reject_on_worker_lost = True
worker_prefetch_multiplier = 1
task_track_started = True
result_expires = 24 * 3600
# A chord's body is one of three triggers of a publish; its errors are in the journal.
task_store_errors_even_if_ignored = False

task_create_missing_queues = False
task_queues = [Queue("plan"), Queue("extract"), Queue("backfill"), Queue("publish")]
task_default_queue = "plan"
task_routes = {
    "etl_tasks.plan_interval": {"queue": "plan"},
    "etl_tasks.finalize_run": {"queue": "plan"},
    "etl_tasks.sweep": {"queue": "plan"},
    "etl_tasks.extract_load_slice": {"queue": "extract"},
    "etl_tasks.dedup_publish": {"queue": "publish"},
    # It takes as long as a slice may. Behind a backfill's slices it would expire in the queue.
    "etl_tasks.reconcile": {"queue": "extract"},
}

task_soft_time_limit = _settings.task_soft_time_limit_min * 60
task_time_limit = _settings.task_time_limit_min * 60
_publish_limits = {
    "soft_time_limit": _settings.publish_soft_time_limit_min * 60,
    "time_limit": _settings.publish_time_limit_min * 60,
}
task_annotations = {"etl_tasks.dedup_publish": _publish_limits}

broker_connection_retry_on_startup = True
# A worker waits for Redis as long as it takes: its main goes on sweeping, and what its children do is not cut off.
broker_connection_max_retries = None
# So it does for one that is full: an acknowledgement refused with OOM would end the main, and with it what all its
# children do. A message that is not acknowledged comes again and claims nothing.
broker_channel_error_retry = True
# The visibility time-out outlives every task, or Redis hands out a running one again (FACTS, Celery on Redis).
broker_transport_options = {
    "visibility_timeout": _settings.visibility_timeout_h * 3600,
    "socket_timeout": 30,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "retry_on_timeout": False,
    "health_check_interval": 10,
    # Messages past the visibility time-out are looked for every 10 s; the default looks at every tenth of these only.
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,
}
result_backend_transport_options = {"visibility_timeout": _settings.visibility_timeout_h * 3600}
redis_socket_timeout = 30
redis_socket_connect_timeout = 5
redis_socket_keepalive = True
redis_backend_health_check_interval = 10
# A publish that fails at once is told, not retried for ever inside a task that holds a lease.
task_publish_retry_policy = {"max_retries": 2, "interval_start": 0.2, "interval_step": 0.5, "interval_max": 1.0}

worker_send_task_events = True
task_send_sent_event = True
worker_cancel_long_running_tasks_on_connection_loss = False
timezone = "UTC"
enable_utc = True

beat_schedule_filename = ".celerybeat-schedule"
beat_schedule = {
    "incremental": {
        "task": "etl_tasks.plan_interval",
        "schedule": _settings.step_min * 60.0,
        # A plan that nobody took before the next one is due has nothing to add to it.
        "options": {"queue": "plan", "expires": _settings.step_min * 60.0},
    }
}
if _settings.reconcile_every_minutes:
    beat_schedule["reconcile"] = {
        "task": "etl_tasks.reconcile",
        "schedule": _settings.reconcile_every_minutes * 60.0,
        "options": {"queue": "extract", "expires": _settings.reconcile_every_minutes * 60.0},
    }

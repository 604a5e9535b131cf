"""Numbers of a day that was never read, and trends over weeks that were not, are NULL."""

from alembic import op

revision = "0012"
down_revision = "0011"

COLUMNS = """
    calls trial_calls missing_calls unknown_trial_calls unique_callers calls_without_caller
    calls_without_duration calls_without_transcript calls_without_summary talk_seconds
    talk_minutes billable_minutes duration_under_10s duration_10_to_30s duration_30_to_60s
    duration_60_to_120s duration_120_to_300s duration_300_to_600s duration_600s_and_more
    engaged_calls short_calls transferred_calls engaged_transferred_calls
    attempted_transfer_calls contained_calls strictly_judged_calls strictly_contained_calls
    goal_calls engaged_goal_calls actions calls_with_action unknown_actions captured_calls
    engaged_captured_calls callback_judged_calls called_back_calls max_duration_known_calls
    calls_at_max_duration hours_known_calls after_hours_calls is_small_sample
    is_engaged_small_sample callers_7d repeat_callers_7d calls_7d calls_previous_7d
    calls_by_now_last_week
"""


def upgrade() -> None:
    for column in COLUMNS.split():
        op.execute(f"ALTER TABLE daily_call_metrics ALTER COLUMN {column} DROP NOT NULL")

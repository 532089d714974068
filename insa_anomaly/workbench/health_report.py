"""A health check, and what was decided about a series, as a person reads it."""

from insa_anomaly.services.model_health import DecisionPage, DecisionView, HealthReport


def text(report: HealthReport) -> str:
    """The report in lines."""
    decided = ", ".join(f"{count} {kind}" for kind, count in report.decided.items()) or "nothing"
    return "\n".join(
        [
            f"{'healthy' if report.healthy else 'not healthy'}: {report.summary}",
            *(
                f"  {one.device_id}/{one.metric_name}: {'; '.join(one.reasons.values())}"
                for one in report.worst
            ),
            f"decided: {decided}",
            f"{report.models} models in {report.seconds:.2f} s, run {report.run_id}",
        ]
    )


def trail_text(page: DecisionPage) -> str:
    """What was decided, a line each, newest first."""
    return (
        "\n".join(_line(one) for one in page.decisions) or "nothing was decided about this series"
    )


def _line(one: DecisionView) -> str:
    came_of_it = " -> ".join(
        part for part in (one.outcome or one.status, one.job_status, one.job_outcome) if part
    )
    return f"{one.at[:16]}Z  {one.kind} version {one.model_version} ({one.cause}): {one.reason} [{came_of_it}]"

"""The questions that the demo asks, and what a newcomer should see in each."""

from __future__ import annotations

from dataclasses import dataclass

WEATHER_AND_DELAYS = """
SELECT a.tzone AS destination_zone,
       CASE WHEN w.wind_speed >= 20 THEN 'strong wind' WHEN w.precip > 0 THEN 'rain' ELSE 'calm' END AS weather,
       count(*) AS flights,
       round(avg(f.dep_delay), 2) AS mean_delay_minutes,
       count(*) FILTER (WHERE f.dep_delay > 60) AS delayed_over_an_hour
FROM aviation.flights AS f
JOIN weather.hourly AS w ON w.origin = f.origin AND w.time_hour = f.time_hour
JOIN airports.airports AS a ON a.faa = f.dest
GROUP BY 1, 2
ORDER BY flights DESC, destination_zone, weather
"""

BUSIEST_AIRCRAFT = """
SELECT f.tailnum, f.origin, l.name AS airline, count(*) AS departures
FROM aviation.flights AS f
JOIN aviation.airlines AS l ON l.carrier = f.carrier
WHERE f.month = 7 AND f.tailnum IS NOT NULL
GROUP BY ALL
ORDER BY departures DESC, f.tailnum, f.origin
LIMIT 10
"""

FLEETS = """
SELECT p.manufacturer, count(*) AS aircraft, avg(p.seats) AS mean_seats
FROM registry.planes AS p
GROUP BY p.manufacturer
ORDER BY aircraft DESC, p.manufacturer
"""

EVERY_AIRCRAFT = """
SELECT p.tailnum, p.manufacturer, p.model
FROM registry.planes AS p
"""


@dataclass(frozen=True, slots=True)
class Question:
    """One question of the demo."""

    title: str
    says: str
    sql: str
    purpose: str


QUESTIONS = (
    Question(
        "Permitted: three departments, 336,776 flights",
        "Is departure delay worse in wind and rain? Flights, weather and airports lie with three departments.",
        WEATHER_AND_DELAYS,
        "research.statistics",
    ),
    Question(
        "Filtered and masked: another purpose, another answer",
        "For planning, the aviation authority shows the city's two airports only, and aircraft as pseudonyms.",
        BUSIEST_AIRCRAFT,
        "operations.planning",
    ),
    Question(
        "Aggregates only: small groups are held back",
        "The registry answers with groups of at least ten aircraft; smaller ones do not leave its gate.",
        FLEETS,
        "research.statistics",
    ),
)

REFUSED = Question(
    "Refused: no agreement covers this purpose",
    "Nobody agreed that single aircraft may be read for planning. The refusal says why, and whom to ask.",
    EVERY_AIRCRAFT,
    "operations.planning",
)

"""What callers and agents say: the text the call generator draws from. Text only, no logic."""

from typing import NamedTuple

FIRST_NAMES = (
    "Pat",
    "Robin",
    "Sam",
    "Alex",
    "Jordan",
    "Casey",
    "Morgan",
    "Riley",
    "Taylor",
    "Jamie",
    "Avery",
    "Quinn",
    "Rowan",
    "Skyler",
    "Zoë",
    "Émile",
    "Søren",
    "Noor",
    "Priya",
    "Mateo",
    "Yuki",
    "Omar",
    "Lucía",
    "Nadia",
)
LAST_NAMES = (
    "Example",
    "Sample",
    "Tester",
    "Mockler",
    "Fixture",
    "Placeholder",
    "Invented",
    "Madeup",
    "Fictive",
    "Notional",
    "Nowhere",
    "Specimen",
    "Imago",
    "Prova",
    "O'Sample",
    "Muster-Beispiel",
)
DAYS = (
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
)
TIMES = ("9:15", "ten o'clock", "11:40", "half past one", "2:20", "a quarter to four", "five")


class Topic(NamedTuple):
    """One reason to call: alternating caller and agent lines, the summary, the data key."""

    turns: tuple[str, ...]
    summary: str
    reason: str


TOPICS: dict[str, tuple[Topic, ...]] = {
    "dental": (
        Topic(
            (
                "Hi, I've had a toothache since {day} and I'd like somebody to look at it.",
                "I'm sorry to hear that. I can offer {day} at {time}. Does that suit you?",
                "Yes, {time} is good. The name is {name}.",
                "Thank you, {first}. Is the number you are calling from the best one?",
                "It is, yes.",
                "You are booked with us for {day} at {time}.",
            ),
            "{name} has a toothache and booked a visit on {day} at {time}.",
            "toothache",
        ),
        Topic(
            (
                "I need to move my cleaning, I can't make {day}.",
                "No problem. Who is the appointment for?",
                "{name}.",
                "I found it. Would {day} at {time} work instead?",
                "That works.",
            ),
            "{name} moved a cleaning to {day} at {time}.",
            "reschedule cleaning",
        ),
        Topic(
            (
                "Do you take my insurance for a crown?",
                "We work with most plans. A crown needs an examination first.",
                "What does the examination cost?",
                "It is 85 dollars and is credited against the crown.",
                "I'll think about it, thanks.",
            ),
            "Caller asked about insurance and the price of an examination before a crown.",
            "price of a crown",
        ),
    ),
    "plumbing": (
        Topic(
            (
                "There's water coming through the kitchen ceiling!",
                "Please close the main valve if you can reach it. Is anybody in danger?",
                "No, the valve is closed now. It's {name}.",
                "Good. A plumber can be with you {day} at {time}.",
                "Sooner would be better.",
                "I am passing you to the person on call.",
            ),
            "{name} reported a leak above the kitchen; valve closed, passed to the person on call.",
            "leak",
        ),
        Topic(
            (
                "I'd like a quote for a new water heater.",
                "Gladly. Is it gas or electric?",
                "Electric, about fifty gallons. {name} is the name.",
                "Somebody will call you back on {day}.",
            ),
            "{name} wants a quote for an electric 50-gallon water heater; call back on {day}.",
            "quote",
        ),
    ),
    "clinic": (
        Topic(
            (
                "I'd like to see a doctor this week, please.",
                "Of course. Are you already a patient with us?",
                "Yes, {name}.",
                "The next opening is {day} at {time}.",
                "I'll take it.",
            ),
            "{name}, an existing patient, booked {day} at {time}.",
            "appointment",
        ),
        Topic(
            (
                "Could you tell me when you are open on {day}?",
                "We are open from eight to six, with a break at noon.",
                "And do I need an appointment for a flu shot?",
                "No, just come in.",
            ),
            "Caller asked for opening hours and about flu shots.",
            "opening hours",
        ),
    ),
    "motors": (
        Topic(
            (
                "Guten Tag, mein Name ist {name}, ich möchte eine Probefahrt vereinbaren.",
                "Sehr gern. Passt Ihnen {day} um {time}?",
                "Ja, das passt. Muss ich den Führerschein mitbringen?",
                "Bitte ja, und einen Ausweis. Bis dann!",
            ),
            "{name} vereinbarte eine Probefahrt: {day}, {time}.",
            "Probefahrt",
        ),
        Topic(
            (
                "Hallo, mein Wagen müsste in die Werkstatt, die Bremsen quietschen.",
                "Das sehen wir uns an. Welches Kennzeichen hat der Wagen?",
                "Das habe ich gerade nicht hier. {name} ist der Name.",
                "Kein Problem. {day} um {time} ist ein Platz frei.",
            ),
            "{name} meldet quietschende Bremsen; Werkstatt am {day} um {time}.",
            "Werkstatt",
        ),
    ),
    "realty": (
        Topic(
            (
                "Is the two-bedroom on Elm Street still available?",
                "It is. Would you like to see it?",
                "Yes, on {day} if possible. I'm {name}.",
                "{day} at {time}. An agent will meet you at the door.",
            ),
            "{name} booked a viewing of the two-bedroom on Elm Street, {day} at {time}.",
            "viewing",
        ),
    ),
    "catering": (
        Topic(
            (
                "We're planning a party for forty people and need catering.",
                "Wonderful. What is the date?",
                "A {day}, around {time}. Three guests are vegan.",
                "Noted. May I have your name?",
                "{name}.",
                "I'll text you the menu.",
            ),
            "{name} plans a party for forty with three vegans; menu sent by text.",
            "catering enquiry",
        ),
        Topic(
            (
                "I want to change the order for {day}: ten more lunch boxes.",
                "Let me look up the order. Do you have the number?",
                "It's under {name}.",
                "I have it. Ten more boxes, delivered at {time}.",
            ),
            "{name} added ten lunch boxes to the order for {day}.",
            "change of order",
        ),
    ),
}

GENERAL: tuple[Topic, ...] = (
    Topic(
        (
            "Hello, am I talking to a person?",
            "I'm the virtual receptionist. I can book, change or cancel for you.",
            "Okay. Then book me something on {day}, please. {name} is my name.",
            "{day} at {time} is free. Shall I take it?",
            "Yes please.",
        ),
        "{name} booked {day} at {time}.",
        "booking",
    ),
    Topic(
        (
            "Can I talk to the manager?",
            "I'll see who is free. What is it about?",
            "A bill I don't understand.",
            "One moment, I am putting you through.",
        ),
        "Caller had a question about a bill and was passed to the manager.",
        "billing",
    ),
    Topic(
        (
            "Sorry, I think I dialled the wrong number.",
            "That's all right. Have a nice day!",
        ),
        "Wrong number.",
        "wrong number",
    ),
)

SMALL_TALK: tuple[tuple[str, str], ...] = (
    ("Sorry, it's loud here. Could you say that again?", "Of course, I will repeat it slowly."),
    ("Do I need to bring anything?", "Just yourself; we have everything else on file."),
    ("Is there parking?", "Yes, behind the building, and it is free for the first hour."),
    ('My daughter says "hi" 👋', "Hello to her as well!"),
    ("How long will it take?", "About forty minutes."),
    ("Can I cancel if something comes up?", "Yes, up to a day before at no charge."),
)

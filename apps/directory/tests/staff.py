"""Staff files, and dropping them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from apps.directory.app import Load, departments, drops, loads
from headwater.testing import Harness

SAMPLES = Path(__file__).parent.parent / "samples"
HEADER = "department,employee,name,title,email,phone,room,since"


def staff(departments: Mapping[str, Sequence[str]], title: str = "Clerk") -> str:
    """A file in which each department has employees of these names."""
    lines = [HEADER]
    for department, names in departments.items():
        lines += [
            f"{department},{department}-{n},{name},{title},{name}@staff.example,555,{n},2024-02-29"
            for n, name in enumerate(names)
        ]
    return "\n".join(lines) + "\n"


def many(count: int, title: str = "Clerk") -> str:
    """A file of so many departments of two."""
    return staff({f"D{n:03}": ["Ann", "Bo"] for n in range(count)}, title)


def sample(name: str) -> bytes:
    return (SAMPLES / name).read_bytes()


async def drop(harness: Harness, content: str | bytes, key: str = "staff/staff.csv") -> Load:
    """Put a file and wait; what became of it."""
    await drops.put(key, content.encode() if isinstance(content, str) else content)
    await harness.run_until_idle()
    return (await loads.query(limit=1, reverse=True)).items[0]


async def names() -> list[str]:
    return [found.department for found in (await departments.query(limit=1000)).items]

"""Which image is booted, asked of an account that has those of Debian, Ubuntu and Amazon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bigm.errors import ConfigError
from bigm.systems.ec2.account import Account
from bigm.systems.ec2.images import Image, resolve_image
from bigm.systems.ec2.options import Options
from ec2rig.cloud import IMAGES
from ec2rig.rig import Rig

ACCOUNT = Account(Options())  # reads its surroundings at the first request, when there is a rig


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig() as rig, pytest.MonkeyPatch.context() as patch:
        rig.use(patch)
        yield rig


pytestmark = pytest.mark.usefixtures("rig")


def resolve(minor: str = "3.11", architecture: str = "x86_64", **options: object) -> Image:
    given = Options(**options)  # type: ignore[arg-type]
    return resolve_image(ACCOUNT, given, minor, architecture)


@pytest.mark.parametrize("minor", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("architecture", ["x86_64", "arm64"])
def test_the_image_has_the_drivers_python_and_the_types_architecture(minor: str, architecture: str) -> None:
    found = resolve(minor, architecture)
    (there,) = [image for image in IMAGES if image.id == found.id]
    assert (minor, architecture) == (there.minor, there.architecture)
    assert Image(there.id, there.root, minor, there.name) == found


def test_a_driver_of_another_python_gets_the_newest_image() -> None:
    assert "3.13" == resolve("3.14").minor


@pytest.mark.parametrize("prefix", ["", "resolve:ssm:"])
def test_an_image_is_named_by_a_parameter(prefix: str) -> None:
    found = resolve("3.11", "arm64", image=prefix + "/aws/service/debian/release/13/latest/arm64")
    assert ("3.13", "/dev/xvda") == (found.minor, found.root_device)


def test_an_image_is_named_by_its_id() -> None:
    (there,) = [image for image in IMAGES if (image.minor, image.architecture) == ("3.12", "x86_64")]
    assert Image(there.id, "/dev/sda1", "3.12", there.name) == resolve(image=there.id)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("debian-12", r"ec2\.image: 'debian-12' is neither an id nor the path of an SSM parameter; write as in ami-"),
        ("ami-0123456789abcdef0", r"ami-0123456789abcdef0.* does not exist; ec2\.image must name an image"),
        ("/aws/service/none", r"/aws/service/none not found; ec2\.image must name an image"),
    ],
)
def test_an_image_that_is_none_is_refused_by_the_options_name(image: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(image=image)


def test_an_image_of_another_architecture_is_refused_before_it_is_launched() -> None:
    (there,) = [image for image in IMAGES if (image.minor, image.architecture) == ("3.12", "arm64")]
    with pytest.raises(ConfigError, match=r"ec2\.image: .* is of arm64, and the instance types are of x86_64"):
        resolve(image=there.id)


def test_a_root_disk_smaller_than_the_image_is_refused(rig: Rig) -> None:
    (there,) = [image for image in IMAGES if (image.minor, image.architecture) == ("3.12", "x86_64")]
    least = ACCOUNT.ask("describe_images", ImageIds=[there.id])["Images"][0]["BlockDeviceMappings"][0]
    assert 1 < least["Ebs"]["VolumeSize"]
    with pytest.raises(ConfigError, match=r"needs a root disk of \d+ GiB; ec2\.root_gib is 1"):
        resolve(image=there.id, root_gib=1)

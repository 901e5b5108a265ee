"""What instances cost in the rig, and how many may run: what moto does not have."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

ON_DEMAND = 0.1  # US dollars an hour, whatever the type
SPOT = 0.04
VCPUS = 64.0  # that may run, spot or on demand


def describe_spot_price_history(asked: dict[str, Any], zones: list[str]) -> dict[str, Any]:
    """DescribeSpotPriceHistory: one price for each type in each zone."""
    history = [
        {
            "InstanceType": kind,
            "AvailabilityZone": zone,
            "ProductDescription": "Linux/UNIX",
            "SpotPrice": f"{SPOT:.6f}",
            "Timestamp": datetime.now(timezone.utc),
        }
        for kind in asked.get("InstanceTypes", [])
        for zone in zones
    ]
    return {"SpotPriceHistory": history}


def get_products(asked: dict[str, Any]) -> dict[str, Any]:
    """GetProducts: the price of the type that the filters name."""
    filters = {each["Field"]: each["Value"] for each in asked.get("Filters", [])}
    kind = filters.get("instanceType", "")
    price = {"unit": "Hrs", "pricePerUnit": {"USD": f"{ON_DEMAND:.10f}"}, "beginRange": "0", "endRange": "Inf"}
    product = {
        "product": {"productFamily": "Compute Instance", "attributes": {**filters, "instanceType": kind}, "sku": "RIG"},
        "serviceCode": "AmazonEC2",
        "terms": {"OnDemand": {"RIG.T": {"priceDimensions": {"RIG.T.P": price}, "sku": "RIG", "termAttributes": {}}}},
    }
    return {"FormatVersion": "aws_v1", "PriceList": [json.dumps(product)] if kind else []}


def get_service_quota(asked: dict[str, Any]) -> dict[str, Any]:
    """GetServiceQuota: the same for all."""
    return {"Quota": {"ServiceCode": asked["ServiceCode"], "QuotaCode": asked["QuotaCode"], "Value": VCPUS}}

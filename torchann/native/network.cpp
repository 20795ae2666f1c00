// The network's Function as a node in C++: the sweeps of `torchann/sweeps.py` with the same ATen calls, for networks so
// small that Python takes longer than the arithmetic. Plain gradients only; where a backward pass is to be
// differentiated, it hands over to the Python path.
#include <ATen/LegacyBatchedTensorImpl.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/extension.h>

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// A call of PyTorch's operations, as `torchann.fast.fused` writes it: ("mul_.Tensor", "error", ("cos", "z")).
class Call {
 public:
  // `first` is the name of the first tensor that the call is made with; "o" or "z" is the second.
  Call(const py::handle& call, const std::string& first) : Call(py::cast<py::tuple>(call), first) {}

  Call(const py::tuple& call, const std::string& first) : op(operation(call[0].cast<std::string>())) {
    for (size_t place = 1; place < call.size(); ++place)
      if (py::isinstance<py::dict>(call[place]))
        for (const auto& [name, value] : py::cast<py::dict>(call[place])) arguments.emplace_back(value, first);
      else
        arguments.emplace_back(call[place], first);
    const auto& all = op.schema().arguments();
    for (size_t place = arguments.size(); place < all.size(); ++place)
      arguments.emplace_back(all[place].default_value().value());
  }

  Tensor operator()(const Tensor& first, const Tensor& second = {}) const {
    c10::Stack stack;
    stack.reserve(arguments.size());
    for (const auto& argument : arguments)
      if (argument.inner) stack.emplace_back((*argument.inner)(first, second));
      else if (argument.tensor) stack.emplace_back(argument.tensor == 1 ? first : second);
      else stack.push_back(argument.value);
    op.callBoxed(stack);
    return std::move(stack[0]).toTensor();
  }

 private:
  struct Argument {
    c10::IValue value;
    int tensor = 0;  // 1 for the first, 2 for the second
    std::shared_ptr<Call> inner;

    explicit Argument(const c10::IValue& value) : value(value) {}

    Argument(const py::handle& argument, const std::string& first) {
      if (py::isinstance<py::tuple>(argument)) inner = std::make_shared<Call>(argument, first);
      else if (py::isinstance<py::bool_>(argument)) value = argument.cast<bool>();
      else if (py::isinstance<py::int_>(argument)) value = argument.cast<int64_t>();
      else if (py::isinstance<py::float_>(argument)) value = argument.cast<double>();
      else if (const auto name = argument.cast<std::string>(); name == first) tensor = 1;
      else if (name == "o" || name == "z") tensor = 2;
      else value = name;
    }
  };

  static c10::OperatorHandle operation(const std::string& name) {
    const auto dot = name.find('.');
    const auto overload = dot == std::string::npos ? "" : name.substr(dot + 1);
    return c10::Dispatcher::singleton().findSchemaOrThrow(("aten::" + name.substr(0, dot)).c_str(), overload.c_str());
  }

  c10::OperatorHandle op;
  std::vector<Argument> arguments;
};

// One activation: o = f(z), in a new tensor or over z; and δ = ē ⊙ f′(z) from ē and s, in a new tensor or over ē.
struct Activation {
  std::function<Tensor(const Tensor&)> activate, activate_;
  std::function<Tensor(const Tensor&, const Tensor&)> delta, delta_;
  bool reads_output, slope_is_constant;
};

// Makes an activation from the calls of `fused.calls_of`; there are none for the identity. It is kept for good.
int64_t activation(const std::vector<py::tuple>& calls, bool reads_output) {
  if (calls.empty()) {
    const auto z = [](const Tensor& z) { return z; };
    const auto error = [](const Tensor& error, const Tensor&) { return error; };
    return reinterpret_cast<int64_t>(new Activation{z, z, error, error, reads_output, /*slope_is_constant=*/true});
  }
  const auto f = [](const Call& call) { return [call](const Tensor& z) { return call(z); }; };
  const Call activate(calls[0], "z"), activate_(calls[1], "z"), delta(calls[2], "error"), delta_(calls[3], "error");
  return reinterpret_cast<int64_t>(
      new Activation{f(activate), f(activate_), delta, delta_, reads_output, /*slope_is_constant=*/false});
}

const Activation& at_address(int64_t address) { return *reinterpret_cast<const Activation*>(address); }

using Optionals = std::vector<std::optional<Tensor>>;

std::optional<Tensor> as_optional(const Tensor& tensor) {
  return tensor.defined() ? std::optional<Tensor>(tensor) : std::nullopt;
}

// ∂E/∂x, ∂E/∂W …, ∂E/∂b … by the Python path, which can be differentiated again.
variable_list by_python(
    const Tensor& grad_output, const std::optional<Tensor>& x, const Optionals& weights, const Optionals& biases,
    const Optionals& kept, const std::vector<int64_t>& activations, const std::vector<bool>& wanted) {
  py::gil_scoped_acquire gil;
  auto gradients = py::module_::import("torchann.native").attr("differentiable_gradients");
  auto found = gradients(grad_output, x, weights, biases, kept, activations, wanted).cast<Optionals>();
  variable_list result;
  for (auto& each : found) result.push_back(each.value_or(Tensor()));
  return result;
}

struct Network : public torch::autograd::Function<Network> {
  // `parameters` are W₁ … W_L and then the biases that exist; `bias_of[layer]` is the index of a layer's bias, or −1.
  // Saved are x, W₁ … W_L and s of the layers, if the wanted gradients read them (as in `FirstOrder` in Python).
  // `places` are the parameters whose values are not read, but to which a second derivative has to find its way in the graph.
  static Tensor forward(
      AutogradContext* ctx, const Tensor& x, at::TensorList parameters, const std::vector<int64_t>& bias_of,
      const std::vector<int64_t>& activations) {
    const size_t depth = activations.size();
    const auto weight_wanted = [&](size_t layer) { return layer < depth && parameters[layer].requires_grad(); };
    variable_list saved = {weight_wanted(0) ? x : Tensor(), x.requires_grad() ? parameters[0] : Tensor()};
    saved.insert(saved.end(), parameters.begin() + 1, parameters.begin() + depth);
    Tensor o = x;
    for (size_t layer = 0; layer < depth; ++layer) {
      std::optional<Tensor> bias;
      if (bias_of[layer] >= 0) bias = parameters[depth + bias_of[layer]];
      const Activation& activation = at_address(activations[layer]);
      const bool keeps = !activation.slope_is_constant || weight_wanted(layer + 1);
      o = at::linear(o, parameters[layer], bias);  // z = x Wᵀ + b, and then o = f(z) over it, unless z is kept
      if (keeps && !activation.reads_output) {
        saved.push_back(o);
        o = activation.activate(o);
      } else {
        o = activation.activate_(o);
        saved.push_back(keeps ? o : Tensor());
      }
    }
    ctx->save_for_backward(saved);
    std::vector<Tensor> places(parameters.begin() + depth, parameters.end());
    places.push_back(parameters[0].requires_grad() ? parameters[0] : Tensor());
    ctx->saved_data["places"] = places;
    ctx->saved_data["bias_of"] = bias_of;
    ctx->saved_data["activations"] = activations;
    ctx->set_materialize_grads(false);
    return o;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grad_outputs) {
    const auto saved = ctx->get_saved_variables();
    const auto bias_of = ctx->saved_data["bias_of"].toIntVector();
    const auto activations = ctx->saved_data["activations"].toIntVector();
    const size_t depth = activations.size();
    const auto biases = std::count_if(bias_of.begin(), bias_of.end(), [](int64_t place) { return place >= 0; });
    const size_t edges = 1 + depth + biases;  // x, weights, biases
    const Tensor& x = saved[0];
    const Tensor* weights = &saved[1];
    const Tensor* kept_by = &saved[1 + depth];  // s of each layer
    const auto bias_edge = [&](size_t layer) { return 1 + depth + bias_of[layer]; };

    variable_list gradients(edges + 2);  // none for the last two arguments
    Tensor error = grad_outputs[0];
    if (!error.defined()) return gradients;
    // Which gradients the engine wants from this call; only here is that known.
    const bool x_wanted = ctx->needs_input_grad(0);
    std::vector<bool> weight_wanted, bias_wanted;
    for (size_t layer = 0; layer < depth; ++layer) {
      weight_wanted.push_back(ctx->needs_input_grad(1 + layer));
      bias_wanted.push_back(bias_of[layer] >= 0 && ctx->needs_input_grad(bias_edge(layer)));
    }
    // δ is not written over the ē that autograd passed in, nor over a batched one (is_grads_batched), which has no
    // in-place kernel.
    const bool is_batched = at::isBatchedTensor(error);
    const bool is_watched = c10::impl::TorchDispatchModeTLS::stack_len() > 0;
    if (at::GradMode::is_enabled() || is_watched) {
      const auto places = ctx->saved_data["places"].toTensorVector();
      Optionals given_weights, given_biases(depth), kept;
      std::vector<bool> wanted = {x_wanted};
      for (size_t layer = 0; layer < depth; ++layer) {
        given_weights.push_back(as_optional(weights[layer]));
        kept.push_back(as_optional(kept_by[layer]));
        if (bias_of[layer] >= 0) given_biases[layer] = places[bias_of[layer]];
      }
      if (!given_weights[0]) given_weights[0] = as_optional(places[biases]);
      wanted.insert(wanted.end(), weight_wanted.begin(), weight_wanted.end());
      wanted.insert(wanted.end(), bias_wanted.begin(), bias_wanted.end());
      const auto found = by_python(error, as_optional(x), given_weights, given_biases, kept, activations, wanted);
      for (size_t edge = 0; edge < 1 + depth; ++edge) gradients[edge] = found[edge];
      for (size_t layer = 0; layer < depth; ++layer)
        if (bias_of[layer] >= 0) gradients[bias_edge(layer)] = found[1 + depth + layer];
      return gradients;
    }
    const auto received = [&](size_t layer) {
      if (layer == 0) return x;
      const Activation& below = at_address(activations[layer - 1]);
      return below.reads_output ? kept_by[layer - 1] : below.activate(kept_by[layer - 1]);
    };
    size_t lowest = 0;
    while (!x_wanted && lowest < depth && !weight_wanted[lowest] && !bias_wanted[lowest]) ++lowest;
    for (size_t layer = depth; layer-- > lowest;) {
      const Activation& activation = at_address(activations[layer]);
      const bool is_ours = layer < depth - 1 && !is_batched;
      const Tensor delta = (is_ours ? activation.delta_ : activation.delta)(error, kept_by[layer]);
      if (weight_wanted[layer]) gradients[1 + layer] = delta.t().mm(received(layer));
      if (bias_wanted[layer]) gradients[bias_edge(layer)] = delta.sum(0);
      if (layer > lowest || x_wanted) error = delta.mm(weights[layer]);
    }
    if (x_wanted) gradients[0] = error;
    return gradients;
  }
};

Tensor network(
    const Tensor& x, const variable_list& weights, const Optionals& biases, const std::vector<int64_t>& activations) {
  variable_list parameters = weights;
  std::vector<int64_t> bias_of;
  for (const auto& bias : biases) {
    bias_of.push_back(bias ? static_cast<int64_t>(parameters.size() - weights.size()) : -1);
    if (bias) parameters.push_back(*bias);
  }
  return Network::apply(x, at::TensorList(parameters), bias_of, activations);
}

}  // namespace

// In series.cpp
void activate_terms_(Tensor stack, std::vector<double> coefficients, std::array<double, 3> slope);
void delta_(Tensor grads, Tensor outputs, std::vector<double> coefficients, std::array<double, 3> slope);

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.def("network", &network);
  module.def("activation", &activation);
  module.def("activate_terms_", &activate_terms_, py::call_guard<py::gil_scoped_release>());
  module.def("delta_", &delta_, py::call_guard<py::gil_scoped_release>());
}
